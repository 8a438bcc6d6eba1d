//! `DEAD`: dead letters keep what an operator needs, and never run again by themselves.

use outbox_core::{DeadReason, Verdict};

use super::Subject;
use super::steps::{
    assert_same_letter, claim_expired, claim_pending, dead, enqueue, enqueue_many, full_one_held,
    is_gone, message, one_held, settle, settle_all, settlement,
};

/// DEAD-01: a dead letter keeps the payload byte for byte, the reason and the error.
pub async fn a_dead_letter_keeps_payload_reason_and_error(subject: &dyn Subject) {
    let payload = b"\0\xff\xfe not utf-8 \0".to_vec();
    let id = enqueue(subject, vec![message(payload.clone())]).await[0];
    let held = claim_pending(subject, 1).await.remove(0);
    let text = "expected value: 'x' at line 1\ncolumn 1";
    assert!(settle(subject, &held, dead(DeadReason::Undecodable, text)).await);
    assert!(is_gone(subject, id).await);
    let letters = subject.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].id, &*letters[0].reason), (id, "undecodable"));
    assert_eq!(letters[0].payload, payload);
    assert_eq!(letters[0].error.as_deref(), Some(text));
}

/// DEAD-02: every reason is kept under its stored name.
pub async fn every_reason_is_kept(subject: &dyn Subject) {
    for (reason, name) in [
        (DeadReason::Exhausted, "exhausted"),
        (DeadReason::Rejected, "rejected"),
        (DeadReason::Undecodable, "undecodable"),
        (DeadReason::Crashed, "crashed"),
        (DeadReason::LeaseExpired, "lease_expired"),
    ] {
        let held = one_held(subject).await;
        assert!(settle(subject, &held, dead(reason, "no")).await);
        let letters = subject.dead_letters().await;
        let letter = letters.iter().find(|letter| letter.id == held.id);
        assert_eq!(letter.map(|letter| &*letter.reason), Some(name));
    }
}

/// DEAD-03: a dead letter is claimed from neither source.
pub async fn a_dead_letter_is_not_claimed(subject: &dyn Subject) {
    let held = one_held(subject).await;
    assert!(settle(subject, &held, dead(DeadReason::Rejected, "no")).await);
    subject.expire_leases().await;
    subject.make_due().await;
    assert!(claim_pending(subject, 10).await.is_empty());
    let expired = claim_expired(subject, 10).await;
    assert!(expired.messages.is_empty() && expired.dead.is_empty());
    assert_eq!(subject.dead_letters().await.len(), 1);
}

/// DEAD-04: a call that makes some messages dead letters settles the others as they ask.
pub async fn dead_letters_do_not_disturb_their_neighbours(subject: &dyn Subject) {
    enqueue_many(subject, 4).await;
    let held = claim_pending(subject, 4).await;
    let settlements = [
        settlement(&held[0], dead(DeadReason::Exhausted, "first")),
        settlement(&held[1], Verdict::Done),
        settlement(&held[2], dead(DeadReason::Rejected, "third")),
        settlement(&held[3], Verdict::Release),
    ];
    assert_eq!(settle_all(subject, &settlements).await.len(), 4);
    let mut letters = subject.dead_letters().await;
    letters.sort_unstable_by_key(|letter| letter.id);
    let told: Vec<_> = letters
        .iter()
        .map(|letter| (letter.id, &*letter.reason, letter.error.as_deref()))
        .collect();
    let expected = [
        (held[0].id, "exhausted", Some("first")),
        (held[2].id, "rejected", Some("third")),
    ];
    assert_eq!(told, expected);
    assert!(is_gone(subject, held[1].id).await);
    assert_eq!(claim_pending(subject, 10).await.remove(0).payload, [3]);
}

/// DEAD-05: a dead letter says what message it was.
pub async fn a_dead_letter_says_what_it_was(subject: &dyn Subject) {
    let rejected = full_one_held(subject).await;
    assert!(settle(subject, &rejected, dead(DeadReason::Rejected, "no")).await);
    let letter = subject.dead_letters().await.pop();
    assert_same_letter(&letter.expect("it is a dead letter"), &rejected);
}
