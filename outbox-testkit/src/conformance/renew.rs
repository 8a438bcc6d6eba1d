//! `RENEW`: a holder keeps its lease, and only a holder.

use std::time::Duration;

use outbox_core::{Renewal, Verdict};

use super::Subject;
use super::steps::{
    HOUR, LEASE_TTL, assert_about, claim_expired, claim_pending, enqueue_many, ids, is_gone,
    one_held, renew, settle, sorted, state,
};

/// RENEW-01: a renew sets the end of the lease to the present time of the storage plus the ttl,
/// and changes nothing else.
pub async fn a_renew_prolongs_the_lease(subject: &dyn Subject) {
    let held = one_held(subject).await;
    let before = state(subject, held.id).await;
    let answer = renew(subject, &[&held], LEASE_TTL * 3).await;
    assert_eq!(answer, (vec![held.id], vec![]));
    let mut after = state(subject, held.id).await;
    assert_about(after.lease_left, LEASE_TTL * 3);
    after.lease_left = before.lease_left;
    assert_eq!(after, before);
}

/// RENEW-02: a renew never shortens a lease.
pub async fn a_renew_never_shortens_the_lease(subject: &dyn Subject) {
    let held = one_held(subject).await;
    let answer = renew(subject, &[&held], Duration::from_secs(1)).await;
    assert_eq!(answer, (vec![held.id], vec![]));
    assert_about(state(subject, held.id).await.lease_left, LEASE_TTL);
}

/// RENEW-03: a renew never brings a settled message back.
pub async fn a_renew_never_brings_a_message_back(subject: &dyn Subject) {
    let done = one_held(subject).await;
    assert!(settle(subject, &done, Verdict::Done).await);
    let answer = renew(subject, &[&done], LEASE_TTL).await;
    assert_eq!(answer, (vec![], vec![done.id]));
    assert!(is_gone(subject, done.id).await);

    let waiting = one_held(subject).await;
    assert!(settle(subject, &waiting, Verdict::Snooze { after: HOUR }).await);
    let answer = renew(subject, &[&waiting], LEASE_TTL).await;
    assert_eq!(answer, (vec![], vec![waiting.id]));
    assert!(!state(subject, waiting.id).await.is_held());
}

/// RENEW-04: of several renewals those that lost are told apart from those that hold.
pub async fn a_renew_tells_survivors_from_losses(subject: &dyn Subject) {
    enqueue_many(subject, 5).await;
    let held = claim_pending(subject, 5).await;
    assert!(settle(subject, &held[0], Verdict::Done).await);
    assert!(settle(subject, &held[3], Verdict::Release).await);
    let all: Vec<_> = held.iter().rev().collect();
    let (renewed, lost) = renew(subject, &all, LEASE_TTL * 2).await;
    assert_eq!(renewed, [held[1].id, held[2].id, held[4].id]);
    assert_eq!(lost, [held[0].id, held[3].id]);
    for id in renewed {
        assert_about(state(subject, id).await.lease_left, LEASE_TTL * 2);
    }
}

/// RENEW-05: after the end of the lease and before a takeover a renew is accepted, and then the
/// message cannot be taken over.
pub async fn a_late_renew_is_accepted_until_the_takeover(subject: &dyn Subject) {
    let held = one_held(subject).await;
    subject.expire_leases().await;
    let answer = renew(subject, &[&held], LEASE_TTL).await;
    assert_eq!(answer, (vec![held.id], vec![]));
    assert!(claim_expired(subject, 10).await.messages.is_empty());
    let stored = state(subject, held.id).await;
    assert_about(stored.lease_left, LEASE_TTL);
    assert_eq!(stored.lease_losses, 0);
    assert!(settle(subject, &held, Verdict::Done).await);
}

/// RENEW-06: each renewal has a ttl of its own.
pub async fn each_renewal_has_its_own_ttl(subject: &dyn Subject) {
    enqueue_many(subject, 3).await;
    let held = claim_pending(subject, 3).await;
    let renewal = |place: usize, hours| Renewal {
        held: held[place].held(),
        lease_ttl: HOUR * hours,
    };
    let renewals = [renewal(2, 2), renewal(0, 7), renewal(1, 4)];
    let renewed = subject.storage().renew(&renewals).await;
    let renewed = renewed.expect("renew succeeds");
    assert_eq!(sorted(renewed.renewed), ids(&held));
    for (claimed, hours) in held.iter().zip([7, 4, 2]) {
        let left = state(subject, claimed.id).await.lease_left;
        assert_about(left, HOUR * hours);
    }
}
