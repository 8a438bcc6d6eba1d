//! `DROP`: a future that is dropped half-way leaves no half-written call, no lost message and no
//! unusable storage. Each property drops after 0, 1, .. 7 polls.
//!
//! A storage on a network cannot take back what it has sent: a dropped call may take effect after
//! the drop. The properties allow that, as the worker must.

use outbox_core::{Claimed, MessageId, Renewal, Source, Verdict};

use super::Subject;
use super::steps::{
    HOUR, LEASE_TTL, QUEUE, claim, claim_expired, claim_pending, enqueue_many, ids, message, renew,
    request, retry, settle_all, settlement, sorted, state,
};
use crate::drop_after;

const POLLS: std::ops::Range<usize> = 0..8;
/// How often a property looks again for the effect of a dropped call.
const ROUNDS: usize = 20;

/// DROP-01: a dropped enqueue writes all its messages or none.
pub async fn a_dropped_enqueue_writes_all_or_nothing(subject: &dyn Subject) {
    let mut written = [0; POLLS.end];
    for polls in POLLS {
        let storage = subject.storage();
        let marked = |n: u8| message([n, polls as u8]);
        drop_after(polls, storage.enqueue((0..3).map(marked).collect())).await;
        for found in drain(subject, None).await {
            written[usize::from(found.payload[1])] += 1;
        }
    }
    assert_eq!(written[0], 0, "a future that was never polled does nothing");
    assert!(
        written.iter().all(|count| [0, 3].contains(count)),
        "{written:?}"
    );
}

/// DROP-02: what a dropped claim leased is returned by a resumed claim with the same token, or
/// by a claim of expired leases; nothing is lost and nothing is delivered to two holders.
pub async fn a_dropped_claim_loses_nothing(subject: &dyn Subject) {
    for polls in POLLS {
        let written = enqueue_many(subject, 4).await;
        let request = request(&[QUEUE], 3, Source::Pending);
        drop_after(polls, subject.storage().claim(&request)).await;
        let resumed = claim(subject, &request.resumed()).await.messages;
        assert!(!resumed.is_empty(), "after {polls} polls");
        let mut done = finish(subject, &resumed).await;
        done.extend(ids(&drain(subject, Some(4 - done.len())).await));
        assert_eq!(sorted(done), written, "after {polls} polls");
    }
    assert!(subject.dead_letters().await.is_empty());
}

/// DROP-03: what a dropped claim of expired leases took over is taken over again after that
/// lease; nothing is lost.
pub async fn a_dropped_takeover_loses_nothing(subject: &dyn Subject) {
    for polls in POLLS {
        let written = enqueue_many(subject, 4).await;
        assert_eq!(claim_pending(subject, 4).await.len(), 4);
        subject.expire_leases().await;
        let request = request(&[QUEUE], 3, Source::Expired);
        drop_after(polls, subject.storage().claim(&request)).await;
        let done = ids(&drain(subject, Some(4)).await);
        assert_eq!(sorted(done), written, "after {polls} polls");
    }
    assert!(subject.dead_letters().await.is_empty());
}

/// DROP-04: a dropped settle writes all its outcomes or none, and asking again tells which.
pub async fn a_dropped_settle_writes_all_or_nothing(subject: &dyn Subject) {
    for polls in POLLS {
        enqueue_many(subject, 3).await;
        let held = claim_pending(subject, 3).await;
        let settlements = [
            settlement(&held[0], Verdict::Done),
            settlement(&held[1], Verdict::Discard),
            settlement(&held[2], retry(HOUR)),
        ];
        drop_after(polls, subject.storage().settle(&settlements)).await;
        let now = settle_all(subject, &settlements).await;
        assert!(
            now.is_empty() || now == ids(&held),
            "after {polls} polls: {now:?}"
        );
        assert_eq!(subject.state(held[0].id).await, None);
        assert_eq!(subject.state(held[1].id).await, None);
        let retried = state(subject, held[2].id).await;
        assert_eq!((retried.attempts, retried.is_held()), (1, false));
        subject.make_due().await;
        let rest = claim_pending(subject, 10).await;
        assert_eq!(finish(subject, &rest).await, [held[2].id]);
    }
}

/// DROP-05: a dropped renew leaves its holder the holder.
pub async fn a_dropped_renew_leaves_the_lease(subject: &dyn Subject) {
    for polls in POLLS {
        enqueue_many(subject, 2).await;
        let held = claim_pending(subject, 2).await;
        let renewals: Vec<_> = held
            .iter()
            .map(|claimed| Renewal::new(claimed.held(), LEASE_TTL * 2))
            .collect();
        drop_after(polls, subject.storage().renew(&renewals)).await;
        // The dropped call may be at work on these messages, which a renew may pass over.
        let (_, lost) = renew(subject, &[&held[0], &held[1]], LEASE_TTL * 3).await;
        assert!(lost.is_empty(), "after {polls} polls: {lost:?}");
        assert_eq!(finish(subject, &held).await, ids(&held));
    }
}

/// DROP-06: a dropped exchange settles all or nothing, and its claim can be recovered.
pub async fn a_dropped_exchange_loses_nothing(subject: &dyn Subject) {
    for polls in POLLS {
        let written = enqueue_many(subject, 5).await;
        let held = claim_pending(subject, 2).await;
        let settlements: Vec<_> = held
            .iter()
            .map(|claimed| settlement(claimed, Verdict::Done))
            .collect();
        let request = request(&[QUEUE], 2, Source::Pending);
        let storage = subject.storage();
        drop_after(polls, storage.exchange(&settlements, &request)).await;
        let now = settle_all(subject, &settlements).await;
        assert!(
            now.is_empty() || now == ids(&held),
            "after {polls} polls: {now:?}"
        );
        let resumed = claim(subject, &request.resumed()).await.messages;
        let mut done = finish(subject, &resumed).await;
        done.extend(ids(&drain(subject, Some(3 - done.len())).await));
        assert_eq!(sorted(done), written[2..], "after {polls} polls");
    }
}

/// Marks held messages as done; each must still be held.
async fn finish(subject: &dyn Subject, held: &[Claimed]) -> Vec<MessageId> {
    let settlements: Vec<_> = held
        .iter()
        .map(|claimed| settlement(claimed, Verdict::Done))
        .collect();
    let survivors = settle_all(subject, &settlements).await;
    assert_eq!(survivors, sorted(ids(held)));
    survivors
}

/// Delivers and finishes everything that is available or whose lease can be ended, and looks
/// again for what arrives late until there is `expected`; without that, until nothing is found
/// twice in a row.
async fn drain(subject: &dyn Subject, expected: Option<usize>) -> Vec<Claimed> {
    let mut done = Vec::new();
    let mut empty = 0;
    for _ in 0..ROUNDS {
        subject.expire_leases().await;
        let mut found = claim_pending(subject, 100).await;
        found.extend(claim_expired(subject, 100).await.messages);
        empty = if found.is_empty() { empty + 1 } else { 0 };
        finish(subject, &found).await;
        done.extend(found);
        if expected.map_or(empty == 2, |expected| done.len() >= expected) {
            break;
        }
    }
    done
}
