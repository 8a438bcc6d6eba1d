//! `EXPIRE`: what becomes of a message whose lease was lost.

use std::collections::BTreeSet;

use outbox_core::{ClaimRequest, DeadReason, QueueLease, Source, Verdict};

use super::Subject;
use super::steps::{
    HOUR, LEASE_TTL, QUEUE, assert_about, assert_same_letter, assert_same_message, claim,
    claim_expired, claim_one, claim_pending, claim_side_by_side, enqueue, enqueue_many, full,
    full_one_held, ids, message, message_to, one_held, reclaim_one, renew, request, retry, settle,
    sorted, state, with,
};

/// EXPIRE-01: an expired lease is taken over under a new token, and the message comes whole; a
/// loss and a delivery are counted, an attempt is not.
pub async fn an_expired_lease_is_taken_over(subject: &dyn Subject) {
    let lost = full_one_held(subject).await;
    let claimed = reclaim_one(subject).await;
    assert_ne!(claimed.token, lost.token);
    assert_same_message(&claimed, &lost);
    assert_eq!(
        (claimed.attempt, claimed.deliveries, claimed.lease_losses),
        (1, 2, 1)
    );
    let stored = state(subject, lost.id).await;
    assert_eq!(
        (stored.attempts, stored.deliveries, stored.lease_losses),
        (1, 2, 1)
    );
    assert_about(stored.lease_left, LEASE_TTL);
}

/// EXPIRE-02: a claim of pending messages never takes an expired lease.
pub async fn a_claim_of_pending_messages_takes_no_expired_lease(subject: &dyn Subject) {
    let lost = one_held(subject).await;
    subject.expire_leases().await;
    let answer = claim(subject, &request(&[QUEUE], 10, Source::Pending)).await;
    assert!(answer.messages.is_empty());
    assert_eq!(answer.next_expiry, Some(std::time::Duration::ZERO));
    assert_eq!(state(subject, lost.id).await.attempts, 1);
}

/// EXPIRE-03: a claim of expired leases takes neither waiting messages nor running leases.
pub async fn a_claim_of_expired_leases_takes_nothing_else(subject: &dyn Subject) {
    one_held(subject).await;
    enqueue(subject, vec![message(*b"waiting")]).await;
    let answer = claim_expired(subject, 10).await;
    assert!(answer.messages.is_empty() && answer.dead.is_empty());
}

/// EXPIRE-04: the lease that ended first is taken over first, up to the limit.
pub async fn the_lease_that_ended_first_is_taken_over_first(subject: &dyn Subject) {
    enqueue_many(subject, 3).await;
    let held = claim_pending(subject, 3).await;
    renew(subject, &[&held[0]], LEASE_TTL * 3).await;
    renew(subject, &[&held[1]], LEASE_TTL * 2).await;
    subject.expire_leases().await;
    let first = claim_expired(subject, 2).await.messages;
    assert_eq!(ids(&first), [held[2].id, held[1].id]);
    let second = claim_expired(subject, 2).await.messages;
    assert_eq!(ids(&second), [held[0].id]);
}

/// EXPIRE-05: a message that was lost before is claimed alone, whether its lease ended before or
/// after the others.
pub async fn a_suspect_is_claimed_alone(subject: &dyn Subject) {
    for suspects_end_last in [false, true] {
        enqueue_many(subject, 2).await;
        claim_pending(subject, 2).await;
        subject.expire_leases().await;
        let suspects = claim_expired(subject, 10).await.messages;
        assert_eq!(suspects.len(), 2);
        enqueue_many(subject, 3).await;
        let innocent = claim_pending(subject, 3).await;
        let last = if suspects_end_last {
            &suspects
        } else {
            &innocent
        };
        renew(subject, &last.iter().collect::<Vec<_>>(), LEASE_TTL * 3).await;
        subject.expire_leases().await;

        let suspects = ids(&suspects);
        let mut delivered = Vec::new();
        for _ in 0..5 {
            let messages = claim_expired(subject, 10).await.messages;
            if ids(&messages).iter().any(|id| suspects.contains(id)) {
                assert_eq!(messages.len(), 1, "a suspect is alone: {messages:?}");
            }
            for claimed in &messages {
                assert!(settle(subject, claimed, Verdict::Done).await);
            }
            delivered.extend(ids(&messages));
        }
        let mut expected = suspects;
        expected.extend(ids(&innocent));
        assert_eq!(sorted(delivered), sorted(expected), "each exactly once");
    }
}

/// EXPIRE-06: the third loss in a row makes a dead letter `crashed`.
pub async fn the_third_loss_in_a_row_is_a_crash(subject: &dyn Subject) {
    let id = one_held(subject).await.id;
    assert_eq!(reclaim_one(subject).await.lease_losses, 1);
    assert_eq!(reclaim_one(subject).await.lease_losses, 2);
    assert_eq!(expire_to_death(subject).await, (id, "crashed"));
    let letter = &subject.dead_letters().await[0];
    assert_eq!(letter.payload, b"one");
}

/// EXPIRE-07: a lease that expires on the last attempt makes a dead letter `lease_expired`, which
/// says what message it was, and keeps the error of the last attempt that failed.
pub async fn a_loss_on_the_last_attempt_is_a_dead_letter(subject: &dyn Subject) {
    let twice = with(full(), |new| new.max_attempts = 2);
    let id = enqueue(subject, vec![twice]).await[0];
    let first = claim_one(subject).await;
    assert!(settle(subject, &first, retry(std::time::Duration::ZERO)).await);
    let last = claim_one(subject).await;
    assert_eq!(last.attempt, 2);
    assert_eq!(expire_to_death(subject).await, (id, "lease_expired"));
    let letter = &subject.dead_letters().await[0];
    assert_same_letter(letter, &last);
    assert_eq!(letter.payload, b"full");
    assert_eq!(letter.error.as_deref(), Some("refused"));
}

/// EXPIRE-08: losses count in a row: a retry or a snooze starts them anew, a release does not.
pub async fn losses_count_only_in_a_row(subject: &dyn Subject) {
    one_held(subject).await;
    let zero = std::time::Duration::ZERO;
    for (verdict, losses) in [
        (retry(zero), 0),
        (Verdict::Snooze { after: zero }, 0),
        (Verdict::Release, 2),
    ] {
        reclaim_one(subject).await;
        let held = reclaim_one(subject).await;
        assert_eq!(held.lease_losses, 2);
        assert!(settle(subject, &held, verdict).await);
        assert_eq!(claim_one(subject).await.lease_losses, losses);
    }
}

/// EXPIRE-09: concurrent claimers of expired leases never share a message, and miss none.
pub async fn concurrent_takeovers_never_share_a_message(subject: &dyn Subject) {
    let written = enqueue_many(subject, 40).await;
    assert_eq!(claim_pending(subject, 40).await.len(), 40);
    subject.expire_leases().await;
    let mut delivered = Vec::new();
    loop {
        let claims = claim_side_by_side(subject, 4, 3, Source::Expired).await;
        let before = delivered.len();
        delivered.extend(claims.iter().flat_map(|claim| ids(&claim.messages)));
        if delivered.len() == before {
            break;
        }
        assert!(delivered.len() <= 40, "some were delivered twice");
    }
    assert_eq!(delivered.len(), 40, "each exactly once");
    let delivered: BTreeSet<_> = delivered.into_iter().collect();
    assert_eq!(delivered, written.into_iter().collect());
}

/// EXPIRE-10: dead letters of a claim do not hold up the messages that can run again, and an answer
/// of dead letters alone says when to come back.
pub async fn messages_that_die_do_not_hold_up_the_others(subject: &dyn Subject) {
    let once = |n: u8| with(message([n]), |new| new.max_attempts = 1);
    let mut messages: Vec<_> = (0..5).map(once).collect();
    messages.push(message(*b"lives"));
    enqueue(subject, messages).await;
    assert_eq!(claim_pending(subject, 10).await.len(), 6);
    subject.expire_leases().await;
    let (mut lives, mut dead) = (Vec::new(), 0);
    for _ in 0..6 {
        let answer = claim_expired(subject, 2).await;
        dead += answer.dead.len();
        lives.extend(answer.messages);
    }
    assert_eq!((lives.len(), dead), (1, 5));
    assert_eq!(lives[0].payload, b"lives");
    assert_eq!(subject.dead_letters().await.len(), 5);

    assert!(settle(subject, &lives[0], Verdict::Done).await);
    enqueue(subject, vec![once(5)]).await;
    claim_one(subject).await;
    subject.expire_leases().await;
    enqueue(subject, vec![message_to("orders", *b"x")]).await;
    let running = claim(subject, &request(&["orders"], 1, Source::Pending)).await;
    assert_eq!(running.messages.len(), 1);
    let answer = claim(subject, &request(&[QUEUE, "orders"], 2, Source::Expired)).await;
    assert_eq!((answer.messages.len(), answer.dead.len()), (0, 1));
    assert_about(answer.next_expiry, LEASE_TTL);
}

/// EXPIRE-11: a lost attempt is the last one only if both the message and the queue of the request
/// allow no more; a queue that names no number leaves it to the message. Each queue has its own.
pub async fn a_queue_may_allow_more_attempts_than_the_message(subject: &dyn Subject) {
    let once = |queue| with(message_to(queue, *b"x"), |new| new.max_attempts = 1);
    let twice = with(message_to("twice", *b"x"), |new| new.max_attempts = 2);
    let messages = vec![once("more"), once("none"), once("same"), twice];
    let written = enqueue(subject, messages).await;
    let allowed = [
        ("none", None),
        ("more", Some(2)),
        ("same", Some(1)),
        ("twice", Some(1)),
    ];
    let queues = allowed.map(|(queue, max_attempts)| {
        let mut lease = QueueLease::new(queue, LEASE_TTL);
        lease.max_attempts = max_attempts;
        lease
    });
    let claim_all = async |source| {
        let request = ClaimRequest::new(queues.to_vec(), 10, source);
        claim(subject, &request).await
    };
    assert_eq!(claim_all(Source::Pending).await.messages.len(), 4);
    subject.expire_leases().await;
    let answer = claim_all(Source::Expired).await;
    assert_eq!(
        sorted(ids(&answer.messages)),
        sorted(vec![written[0], written[3]]),
        "the queue allows one more, or the message does"
    );
    let dead = answer.dead.iter().map(|dead| dead.id).collect();
    assert_eq!(sorted(dead), sorted(vec![written[1], written[2]]));
    for dead in &answer.dead {
        assert_eq!(dead.reason, DeadReason::LeaseExpired);
    }
}

/// EXPIRE-12: what is taken over is leased for the time of its own queue.
pub async fn each_queue_takes_over_for_its_own_time(subject: &dyn Subject) {
    let messages = ["a", "b"].map(|queue| message_to(queue, *b"x")).to_vec();
    let written = enqueue(subject, messages).await;
    let claimed = claim(subject, &request(&["a", "b"], 10, Source::Pending)).await;
    assert_eq!(claimed.messages.len(), 2);
    subject.expire_leases().await;
    let queues = vec![QueueLease::new("a", HOUR), QueueLease::new("b", HOUR * 5)];
    let taken = claim(subject, &ClaimRequest::new(queues, 10, Source::Expired)).await;
    assert_eq!(taken.messages.len(), 2);
    assert_about(state(subject, written[0]).await.lease_left, HOUR);
    assert_about(state(subject, written[1]).await.lease_left, HOUR * 5);
}

/// EXPIRE-13: the limit of a claim of expired leases counts over all queues; what is beyond it is
/// left for the next.
pub async fn the_limit_of_a_takeover_counts_over_all_queues(subject: &dyn Subject) {
    let of = |queue| (0..3_u8).map(move |n| message_to(queue, [n]));
    let written = enqueue(subject, of("a").chain(of("b")).collect()).await;
    let claimed = claim(subject, &request(&["a", "b"], 10, Source::Pending)).await;
    assert_eq!(claimed.messages.len(), 6);
    subject.expire_leases().await;
    let mut taken = Vec::new();
    for _ in 0..3 {
        let answer = claim(subject, &request(&["a", "b"], 4, Source::Expired)).await;
        taken.extend(ids(&answer.messages));
    }
    assert_eq!(sorted(taken), written, "each exactly once");
}

/// Ends the lease of the only message and claims; it must become a dead letter, which it tells.
async fn expire_to_death(subject: &dyn Subject) -> (outbox_core::MessageId, &'static str) {
    subject.expire_leases().await;
    let answer = claim_expired(subject, 10).await;
    assert!(answer.messages.is_empty(), "{:?}", answer.messages);
    let [dead] = &answer.dead[..] else {
        panic!("one dead letter: {:?}", answer.dead);
    };
    assert_eq!((&*dead.queue, &*dead.kind), (QUEUE, "welcome"));
    assert_eq!(subject.state(dead.id).await, None);
    let letters = subject.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].id, dead.id);
    assert_eq!(letters[0].reason, dead.reason.as_str());
    let again = claim_expired(subject, 10).await;
    assert!(again.messages.is_empty() && again.dead.is_empty());
    (dead.id, dead.reason.as_str())
}
