//! `FENCE`: only the holder of the token writes, and everybody else is told that nothing was written.

use std::time::Duration;

use futures_util::future::join;
use outbox_core::{LeaseToken, MessageId, Source, Verdict};

use super::Subject;
use super::steps::{
    LEASE_TTL, claim_expired, claim_one, claim_pending, claim_side_by_side, enqueue, enqueue_many,
    every_verdict, ids, is_gone, message, one_held, only, reclaim_one, renew, request, retry,
    settle, settle_all, settlement, state,
};

/// FENCE-01: after a takeover no verdict of the former holder changes anything, and each is
/// reported as lost.
pub async fn a_stale_settle_changes_nothing(subject: &dyn Subject) {
    let stale = one_held(subject).await;
    let holder = reclaim_one(subject).await;
    let before = state(subject, stale.id).await;
    for verdict in every_verdict() {
        assert!(
            !settle(subject, &stale, verdict.clone()).await,
            "the former holder wrote {verdict:?}"
        );
        let mut after = state(subject, stale.id).await;
        assert!(after.lease_left <= before.lease_left);
        after.lease_left = before.lease_left;
        assert_eq!(after, before, "{verdict:?} of the former holder");
    }
    assert!(subject.dead_letters().await.is_empty());
    assert!(settle(subject, &holder, Verdict::Done).await);
}

/// FENCE-02: after a takeover the former holder's renew is reported as lost and does not prolong
/// the new lease.
pub async fn a_stale_renew_changes_nothing(subject: &dyn Subject) {
    let stale = one_held(subject).await;
    reclaim_one(subject).await;
    let answer = renew(subject, &[&stale], LEASE_TTL * 100).await;
    assert_eq!(answer, (vec![], vec![stale.id]));
    let left = state(subject, stale.id).await.lease_left;
    assert!(left.is_some_and(|left| left < LEASE_TTL * 2), "{left:?}");
}

/// FENCE-03: after the end of the lease and before a takeover, every verdict of the holder is
/// accepted, and nobody can take the message over afterwards.
pub async fn a_late_settle_is_accepted_until_the_takeover(subject: &dyn Subject) {
    for verdict in every_verdict() {
        let held = one_held(subject).await;
        subject.expire_leases().await;
        let accepted = settle(subject, &held, verdict.clone()).await;
        assert!(accepted, "{verdict:?} came late, and nobody had taken over");
        let answer = claim_expired(subject, 10).await;
        assert!(answer.messages.is_empty() && answer.dead.is_empty());
        // What is not gone would be in the way of the next verdict.
        subject.make_due().await;
        for rest in claim_pending(subject, 10).await {
            assert!(settle(subject, &rest, Verdict::Done).await);
        }
    }
}

/// FENCE-04: a second settle of the same lease is reported as lost and changes nothing.
pub async fn a_second_settle_is_reported(subject: &dyn Subject) {
    for verdict in every_verdict() {
        let held = one_held(subject).await;
        assert!(settle(subject, &held, verdict.clone()).await);
        let before = subject.state(held.id).await.map(|state| state.attempts);
        let letters = subject.dead_letters().await.len();
        for second in every_verdict() {
            let again = settle(subject, &held, second).await;
            assert!(!again, "a second outcome was written after {verdict:?}");
        }
        let after = subject.state(held.id).await.map(|state| state.attempts);
        assert_eq!(after, before);
        assert_eq!(subject.dead_letters().await.len(), letters);
        subject.make_due().await;
        for rest in claim_pending(subject, 10).await {
            assert!(settle(subject, &rest, Verdict::Done).await);
        }
    }
}

/// FENCE-05: of several settlements in one call, those whose token no longer holds are left out
/// of the answer, and the others are written.
pub async fn a_settle_answers_exactly_the_survivors(subject: &dyn Subject) {
    enqueue_many(subject, 6).await;
    let held = claim_pending(subject, 6).await;
    assert!(settle(subject, &held[1], Verdict::Done).await);
    assert!(settle(subject, &held[4], Verdict::Release).await);
    assert_eq!(claim_one(subject).await.id, held[4].id);
    let settlements: Vec<_> = held
        .iter()
        .rev()
        .map(|claimed| settlement(claimed, Verdict::Done))
        .collect();
    let survivors = settle_all(subject, &settlements).await;
    assert_eq!(survivors, [held[0].id, held[2].id, held[3].id, held[5].id]);
    for id in survivors {
        assert!(is_gone(subject, id).await);
    }
    assert_eq!(state(subject, held[4].id).await.deliveries, 2);
}

/// FENCE-06: a token that never held the message writes nothing, and neither does the token of
/// another message of the same holder's earlier claim, not even in one call with that message.
pub async fn a_foreign_token_writes_nothing(subject: &dyn Subject) {
    enqueue_many(subject, 2).await;
    let first = claim_pending(subject, 1).await.remove(0);
    let second = claim_pending(subject, 1).await.remove(0);
    for token in [LeaseToken::random(), second.token] {
        let mut foreign = first.clone();
        foreign.token = token;
        for verdict in every_verdict() {
            assert!(!settle(subject, &foreign, verdict).await);
        }
        let answer = renew(subject, &[&foreign], LEASE_TTL * 9).await;
        assert_eq!(answer, (vec![], vec![first.id]));
    }
    // In one call each message is presented with the token of the other.
    let (mut crossed_first, mut crossed_second) = (first.clone(), second.clone());
    (crossed_first.token, crossed_second.token) = (second.token, first.token);
    let crossed = [&crossed_first, &crossed_second];
    let settlements = crossed.map(|claimed| settlement(claimed, Verdict::Done));
    assert_eq!(settle_all(subject, &settlements).await, []);
    let answer = renew(subject, &crossed, LEASE_TTL * 9).await;
    assert_eq!(answer, (vec![], vec![first.id, second.id]));
    assert!(settle(subject, &first, Verdict::Done).await);
    assert!(settle(subject, &second, Verdict::Done).await);
}

/// FENCE-07: an id that never existed is reported as lost.
pub async fn an_unknown_id_is_reported(subject: &dyn Subject) {
    let mut unknown = one_held(subject).await;
    unknown.id = MessageId(i64::MAX);
    assert!(!settle(subject, &unknown, Verdict::Done).await);
    let answer = renew(subject, &[&unknown], LEASE_TTL).await;
    assert_eq!(answer, (vec![], vec![unknown.id]));
}

/// FENCE-08: a settle of nothing and a renew of nothing change nothing.
pub async fn empty_calls_change_nothing(subject: &dyn Subject) {
    let held = one_held(subject).await;
    assert!(settle_all(subject, &[]).await.is_empty());
    assert_eq!(renew(subject, &[], LEASE_TTL).await, (vec![], vec![]));
    assert!(settle(subject, &held, Verdict::Done).await);
}

/// FENCE-09: when a late settle and a takeover race, exactly one of them gets the message.
pub async fn a_late_settle_and_a_takeover_exclude_each_other(subject: &dyn Subject) {
    for _ in 0..20 {
        enqueue_many(subject, 4).await;
        let held = claim_pending(subject, 4).await;
        subject.expire_leases().await;
        let settlements: Vec<_> = held
            .iter()
            .map(|claimed| settlement(claimed, Verdict::Done))
            .collect();
        let (settled, taken) = join(
            settle_all(subject, &settlements),
            claim_side_by_side(subject, 1, 4, Source::Expired),
        )
        .await;
        let taken = only(taken);
        for id in ids(&held) {
            let is_taken = ids(&taken.messages).contains(&id);
            assert_ne!(settled.contains(&id), is_taken, "message {id}");
            assert_eq!(is_gone(subject, id).await, !is_taken, "message {id}");
        }
        for claimed in taken.messages {
            assert!(settle(subject, &claimed, Verdict::Done).await);
        }
    }
}

/// FENCE-10: a token that held a message before it was retried and claimed anew writes nothing,
/// even though it held the same message.
pub async fn a_token_of_an_earlier_delivery_writes_nothing(subject: &dyn Subject) {
    let former = one_held(subject).await;
    assert!(settle(subject, &former, retry(Duration::ZERO)).await);
    enqueue(subject, vec![message(*b"other")]).await;
    let current = claim_pending(subject, 2).await;
    assert!(ids(&current).contains(&former.id));
    for verdict in every_verdict() {
        assert!(!settle(subject, &former, verdict).await);
    }
    let answer = renew(subject, &[&former], LEASE_TTL).await;
    assert_eq!(answer, (vec![], vec![former.id]));
    assert_eq!(state(subject, former.id).await.deliveries, 2);
}

/// FENCE-11: an exchange writes nothing about a message whose token no longer holds, and reports it
/// as lost.
pub async fn an_exchange_is_fenced_as_a_settle_is(subject: &dyn Subject) {
    let stale = one_held(subject).await;
    assert!(settle(subject, &stale, Verdict::Release).await);
    let holder = claim_one(subject).await;
    let request = request(&["orders"], 10, Source::Pending);
    for verdict in every_verdict() {
        let settlements = [settlement(&stale, verdict.clone())];
        let answer = subject.storage().exchange(&settlements, &request).await;
        let settled = answer.settled.expect("the exchange settles");
        assert_eq!(settled.written, [], "a former holder wrote {verdict:?}");
        let stored = state(subject, stale.id).await;
        assert!(stored.is_held(), "{verdict:?}");
        assert_eq!(stored.due_in, Duration::ZERO, "{verdict:?}");
    }
    assert!(subject.dead_letters().await.is_empty());
    assert!(settle(subject, &holder, Verdict::Done).await);
}
