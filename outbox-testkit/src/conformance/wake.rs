//! `WAKE`: hints that something may have become available. They may be lost, repeated or wrong, so
//! little can be asked of them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use outbox_core::timeout;

use super::Subject;
use super::steps::{QUEUE, claim_pending, enqueue, message, message_to};

/// How long the stream must be silent before a hint counts as an answer to what follows.
const SILENCE: Duration = Duration::from_millis(300);
/// How long one hint may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// WAKE-01: an enqueue into a queue is followed by a hint to those who wait for that queue.
pub async fn an_enqueue_is_followed_by_a_hint(subject: &dyn Subject) {
    let mut hints = wake_ups(subject, &["orders", QUEUE]);
    settle_down(subject, &mut hints).await;
    // One hint may be lost, for instance while the storage connects; ten in a row are a defect.
    for _ in 0..10 {
        enqueue(subject, vec![message(*b"x")]).await;
        if hint_within(subject, &mut hints, PATIENCE).await {
            return;
        }
    }
    panic!("ten messages without one hint");
}

/// WAKE-02: each of several streams gets its own hints.
pub async fn every_stream_gets_its_own_hints(subject: &dyn Subject) {
    let mut first = wake_ups(subject, &[QUEUE]);
    let mut second = wake_ups(subject, &["orders", QUEUE]);
    settle_down(subject, &mut first).await;
    settle_down(subject, &mut second).await;
    let (mut first_hinted, mut second_hinted) = (false, false);
    for _ in 0..10 {
        enqueue(subject, vec![message(*b"x"), message_to("other", *b"x")]).await;
        first_hinted = first_hinted || hint_within(subject, &mut first, PATIENCE).await;
        second_hinted = second_hinted || hint_within(subject, &mut second, PATIENCE).await;
        if first_hinted && second_hinted {
            return;
        }
    }
    panic!("ten messages: first stream {first_hinted}, second stream {second_hinted}");
}

/// WAKE-03: a dropped stream leaves the storage as usable as before.
pub async fn a_dropped_stream_leaves_nothing_behind(subject: &dyn Subject) {
    for _ in 0..20 {
        let mut hints = wake_ups(subject, &[QUEUE]);
        hint_within(subject, &mut hints, Duration::from_millis(1)).await;
    }
    enqueue(subject, vec![message(*b"x")]).await;
    assert_eq!(claim_pending(subject, 10).await.len(), 1);
}

/// WAKE-04: a stream is silent while nothing happens: every hint is a claim, and claims without end
/// are a storage at work for nothing.
pub async fn a_stream_is_silent_while_nothing_happens(subject: &dyn Subject) {
    let mut hints = wake_ups(subject, &[QUEUE]);
    assert!(settle_down(subject, &mut hints).await, "hint upon hint");
    enqueue(subject, vec![message(*b"x")]).await;
    assert_eq!(claim_pending(subject, 1).await.len(), 1);
    assert!(settle_down(subject, &mut hints).await, "hint upon hint");
}

fn wake_ups(subject: &dyn Subject, queues: &[&str]) -> BoxStream<'static, ()> {
    let queues = queues.iter().map(|queue| Arc::from(*queue)).collect();
    subject.storage().wake_ups(queues, subject.runtime())
}

/// Waits until hints of the past, such as the one after connecting, have passed; says whether they
/// have.
async fn settle_down(subject: &dyn Subject, hints: &mut BoxStream<'static, ()>) -> bool {
    for _ in 0..10 {
        if !hint_within(subject, hints, SILENCE).await {
            return true;
        }
    }
    false
}

async fn hint_within(
    subject: &dyn Subject,
    hints: &mut BoxStream<'static, ()>,
    limit: Duration,
) -> bool {
    let hint = timeout(&*subject.runtime(), limit, hints.next()).await;
    hint.is_some_and(|hint| {
        assert!(hint.is_some(), "the stream of hints never ends");
        true
    })
}
