//! `RETRY`: what the outcomes other than a dead letter make of a message.

use std::time::{Duration, SystemTime};

use outbox_core::{Due, MAX_DELAY, MAX_ERROR_BYTES, Source, Verdict};

use super::Subject;
use super::steps::{
    HOUR, assert_about, assert_same_message, claim_one, claim_pending, enqueue, enqueue_many,
    every_verdict, full_one_held, ids, is_gone, message, message_to, one_held, reclaim_one,
    request, retry, settle, settle_all, settlement, sorted, state, with,
};

/// RETRY-01: a retry waits by the storage's clock from the settle, for 100 years if need be, keeps
/// the attempt charged, the error and the whole message, and ends the lease.
pub async fn a_retry_waits_and_keeps_the_attempt(subject: &dyn Subject) {
    let held = full_one_held(subject).await;
    assert!(settle(subject, &held, retry(HOUR * 3)).await);
    let stored = state(subject, held.id).await;
    assert!(!stored.is_held());
    assert_about(Some(stored.due_in), HOUR * 3);
    assert_eq!((stored.attempts, stored.deliveries), (1, 1));
    assert_eq!(stored.last_error.as_deref(), Some("refused"));
    assert!(claim_pending(subject, 10).await.is_empty());

    subject.make_due().await;
    let again = claim_one(subject).await;
    assert_eq!((again.attempt, again.deliveries), (2, 2));
    assert_same_message(&again, &held);
    assert_ne!(again.token, held.token);
    assert!(settle(subject, &again, retry(MAX_DELAY)).await);
    assert_about(Some(state(subject, held.id).await.due_in), MAX_DELAY);
}

/// RETRY-02: a retry without delay is available at once.
pub async fn a_retry_without_delay_is_available_at_once(subject: &dyn Subject) {
    let mut held = one_held(subject).await;
    for attempt in 2..=4 {
        assert!(settle(subject, &held, retry(Duration::ZERO)).await);
        held = claim_one(subject).await;
        assert_eq!(held.attempt, attempt);
    }
}

/// RETRY-03: a snooze waits by the storage's clock, for 100 years if need be, and refunds the
/// attempt, not the delivery.
pub async fn a_snooze_waits_and_refunds_the_attempt(subject: &dyn Subject) {
    let held = one_held(subject).await;
    assert!(settle(subject, &held, Verdict::Snooze { after: HOUR * 2 }).await);
    let stored = state(subject, held.id).await;
    assert!(!stored.is_held());
    assert_about(Some(stored.due_in), HOUR * 2);
    assert_eq!((stored.attempts, stored.deliveries), (0, 1));
    assert!(claim_pending(subject, 10).await.is_empty());
    subject.make_due().await;
    let again = claim_one(subject).await;
    assert_eq!((again.attempt, again.deliveries), (1, 2));
    assert!(settle(subject, &again, Verdict::Snooze { after: MAX_DELAY }).await);
    assert_about(Some(state(subject, held.id).await.due_in), MAX_DELAY);
}

/// RETRY-04: a release refunds the attempt and makes the message available at once, in its old
/// place.
pub async fn a_release_gives_the_message_back_in_its_place(subject: &dyn Subject) {
    let at = |payload: &[u8], seconds| {
        let instant = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        with(message(payload), |new| new.due = Due::At(instant))
    };
    let messages = vec![message(*b"third"), at(b"second", 200), at(b"first", 100)];
    enqueue(subject, messages).await;
    let held = claim_pending(subject, 1).await.remove(0);
    assert_eq!(held.payload, b"first");
    assert!(settle(subject, &held, Verdict::Release).await);
    let stored = state(subject, held.id).await;
    assert!(!stored.is_held());
    assert_eq!((stored.attempts, stored.deliveries), (0, 1));
    let claimed = claim_pending(subject, 10).await;
    let order: Vec<_> = claimed.iter().map(|claimed| &*claimed.payload).collect();
    assert_eq!(order, [&b"first"[..], b"second", b"third"]);
    assert_eq!((claimed[0].attempt, claimed[0].deliveries), (1, 2));
}

/// RETRY-05: a release after a takeover refunds the attempt of the first claim and keeps the loss;
/// attempts never go below zero.
pub async fn a_release_after_a_takeover_keeps_the_loss(subject: &dyn Subject) {
    one_held(subject).await;
    let held = reclaim_one(subject).await;
    assert!(settle(subject, &held, Verdict::Release).await);
    let stored = state(subject, held.id).await;
    assert_eq!((stored.attempts, stored.lease_losses), (0, 1));
    let again = claim_one(subject).await;
    assert_eq!(
        (again.attempt, again.lease_losses, again.deliveries),
        (1, 1, 3)
    );
    assert!(
        settle(
            subject,
            &again,
            Verdict::Snooze {
                after: Duration::ZERO
            }
        )
        .await
    );
    assert_eq!(state(subject, held.id).await.attempts, 0);
}

/// RETRY-06: done and discard delete the message and leave no dead letter.
pub async fn done_and_discard_delete_the_message(subject: &dyn Subject) {
    for verdict in [Verdict::Done, Verdict::Discard] {
        let held = one_held(subject).await;
        assert!(settle(subject, &held, verdict).await);
        assert!(is_gone(subject, held.id).await);
    }
    subject.expire_leases().await;
    assert!(claim_pending(subject, 10).await.is_empty());
    assert!(subject.dead_letters().await.is_empty());
}

/// RETRY-07: one call settles messages with different outcomes, each with its own.
pub async fn one_call_writes_different_outcomes(subject: &dyn Subject) {
    enqueue_many(subject, 5).await;
    let held = claim_pending(subject, 5).await;
    let settlements = [
        settlement(&held[3], Verdict::Release),
        settlement(&held[0], Verdict::Done),
        settlement(&held[4], retry(HOUR * 2)),
        settlement(&held[2], Verdict::Snooze { after: HOUR * 5 }),
        settlement(&held[1], retry(HOUR)),
    ];
    assert_eq!(settle_all(subject, &settlements).await.len(), 5);
    assert!(is_gone(subject, held[0].id).await);
    for (place, hours, attempts) in [(1, 1, 1), (2, 5, 0), (3, 0, 0), (4, 2, 1)] {
        let stored = state(subject, held[place].id).await;
        assert_about(Some(stored.due_in), HOUR * hours);
        assert_eq!((stored.attempts, stored.is_held()), (attempts, false));
    }
}

/// RETRY-08: error texts come back as they were given, whatever characters they hold, and as long as
/// a worker sends them.
pub async fn error_texts_are_kept(subject: &dyn Subject) {
    let text = "Zeile 1\nline 2: 'quoted' \"twice\" {a,b} \\ \u{1f980} NULL";
    for text in [text.to_owned(), "\u{fc}".repeat(MAX_ERROR_BYTES / 2)] {
        let held = one_held(subject).await;
        let verdict = Verdict::Retry {
            after: HOUR,
            error: text.clone(),
        };
        assert!(settle(subject, &held, verdict).await);
        let stored = state(subject, held.id).await;
        assert_eq!(stored.last_error, Some(text));
    }
}

/// RETRY-09: a snooze, a release and a lost lease leave the error of the last failed attempt.
pub async fn an_error_stays_until_the_next_one(subject: &dyn Subject) {
    let held = one_held(subject).await;
    assert!(settle(subject, &held, retry(Duration::ZERO)).await);
    let zero = Duration::ZERO;
    for verdict in [Verdict::Snooze { after: zero }, Verdict::Release] {
        let held = claim_one(subject).await;
        assert!(settle(subject, &held, verdict.clone()).await);
        let stored = state(subject, held.id).await;
        assert_eq!(stored.last_error.as_deref(), Some("refused"), "{verdict:?}");
    }
    claim_one(subject).await;
    let held = reclaim_one(subject).await;
    let stored = state(subject, held.id).await;
    assert_eq!(stored.last_error.as_deref(), Some("refused"));
    let verdict = Verdict::Retry {
        after: zero,
        error: "refused again".to_owned(),
    };
    assert!(settle(subject, &held, verdict).await);
    let stored = state(subject, held.id).await;
    assert_eq!(stored.last_error.as_deref(), Some("refused again"));
}

/// RETRY-10: an exchange writes each outcome as a settle does.
pub async fn an_exchange_writes_every_outcome(subject: &dyn Subject) {
    enqueue_many(subject, 6).await;
    let held = claim_pending(subject, 6).await;
    let outcomes = held.iter().zip(every_verdict());
    let settlements: Vec<_> = outcomes
        .map(|(one, verdict)| settlement(one, verdict))
        .collect();
    enqueue(subject, vec![message_to("orders", *b"x")]).await;
    let request = request(&["orders"], 10, Source::Pending);
    let answer = subject.storage().exchange(&settlements, &request).await;
    assert_eq!(answer.claim.expect("the exchange claims").messages.len(), 1);
    let written = answer.settled.expect("the exchange settles").written;
    assert_eq!(sorted(written), ids(&held));
    let [done, discarded, retried, snoozed, released, dead] = &ids(&held)[..] else {
        panic!("there are six outcomes");
    };
    for id in [done, discarded, dead] {
        assert!(is_gone(subject, *id).await, "message {id}");
    }
    for (id, due_in, attempts, error) in [
        (retried, HOUR, 1, Some("refused")),
        (snoozed, HOUR, 0, None),
        (released, Duration::ZERO, 0, None),
    ] {
        let stored = state(subject, *id).await;
        assert_about(Some(stored.due_in), due_in);
        assert_eq!((stored.attempts, stored.is_held()), (attempts, false));
        assert_eq!(stored.last_error.as_deref(), error, "message {id}");
    }
    let letters = subject.dead_letters().await;
    let letter = letters.iter().find(|letter| letter.id == *dead);
    assert_eq!(letter.map(|letter| &*letter.reason), Some("rejected"));
}
