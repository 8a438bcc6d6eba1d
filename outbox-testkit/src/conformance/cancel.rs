//! `CANCEL`: a message that nobody holds can be cancelled, and no other.

use outbox_core::{Cancel, MessageId, Verdict};

use super::Subject;
use super::steps::{
    HOUR, LEASE_TTL, claim_expired, claim_pending, enqueue, every_verdict, is_gone, message,
    one_held, renew, retry, settle, state, try_enqueue, with,
};

/// CANCEL-01: a waiting message, due or not, is deleted and never delivered; no dead letter is left.
pub async fn a_waiting_message_is_cancelled(subject: &dyn Subject) {
    let due = enqueue(subject, vec![message(*b"x")]).await[0];
    assert_eq!(subject.cancel(due).await, Cancel::Cancelled);
    let retried = one_held(subject).await;
    assert!(settle(subject, &retried, retry(HOUR)).await);
    assert_eq!(subject.cancel(retried.id).await, Cancel::Cancelled);
    subject.make_due().await;
    assert!(claim_pending(subject, 10).await.is_empty());
    assert!(is_gone(subject, due).await && is_gone(subject, retried.id).await);
    assert!(subject.dead_letters().await.is_empty());
}

/// CANCEL-02: a held message is not cancelled, and stays as it is.
pub async fn a_held_message_is_not_cancelled(subject: &dyn Subject) {
    let held = one_held(subject).await;
    assert_eq!(subject.cancel(held.id).await, Cancel::Leased);
    assert!(state(subject, held.id).await.is_held());
    assert!(settle(subject, &held, Verdict::Done).await);
}

/// CANCEL-03: an expired lease does not protect its message; the former holder's settle and renew
/// are reported as lost.
pub async fn an_expired_lease_does_not_protect(subject: &dyn Subject) {
    let held = one_held(subject).await;
    subject.expire_leases().await;
    assert_eq!(subject.cancel(held.id).await, Cancel::Cancelled);
    for verdict in every_verdict() {
        assert!(!settle(subject, &held, verdict).await);
    }
    let answer = renew(subject, &[&held], LEASE_TTL).await;
    assert_eq!(answer, (vec![], vec![held.id]));
    assert!(claim_expired(subject, 10).await.messages.is_empty());
    assert!(subject.dead_letters().await.is_empty());
}

/// CANCEL-04: what is settled, cancelled before or unknown is not found.
pub async fn what_is_gone_is_not_found(subject: &dyn Subject) {
    assert_eq!(subject.cancel(MessageId(i64::MAX)).await, Cancel::NotFound);
    let done = one_held(subject).await;
    assert!(settle(subject, &done, Verdict::Done).await);
    assert_eq!(subject.cancel(done.id).await, Cancel::NotFound);
    let twice = enqueue(subject, vec![message(*b"x")]).await[0];
    assert_eq!(subject.cancel(twice).await, Cancel::Cancelled);
    assert_eq!(subject.cancel(twice).await, Cancel::NotFound);
}

/// CANCEL-05: cancelling frees the key.
pub async fn cancelling_frees_the_key(subject: &dyn Subject) {
    let keyed = || vec![with(message(*b"x"), |new| new.key = Some("k".into()))];
    let first = enqueue(subject, keyed()).await[0];
    assert_eq!(try_enqueue(subject, keyed()).await, [None]);
    assert_eq!(subject.cancel(first).await, Cancel::Cancelled);
    let second = enqueue(subject, keyed()).await[0];
    assert_ne!(first, second, "an id is never used again");
}
