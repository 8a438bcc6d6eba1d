//! `LEASE`: a claim leases the right messages, in the right order, to one claimer.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use outbox_core::{ClaimRequest, Claimed, Due, MAX_LEASE_TTL, QueueLease, Source, Verdict};

use super::steps::{
    HOUR, LEASE_TTL, QUEUE, assert_about, claim, claim_expired, claim_one, claim_pending,
    claim_side_by_side, enqueue, enqueue_many, ids, message, message_to, one_held, only, request,
    settle, settlement, sorted, state, with,
};
use super::{Capability, Subject};

/// LEASE-01: a claim leases the message under the caller's token for the time asked, be it the
/// longest, and charges one attempt and one delivery.
pub async fn a_claim_leases_and_charges_an_attempt(subject: &dyn Subject) {
    let written = enqueue(subject, vec![message(*b"short"), message(*b"long")]).await;
    for (id, lease_ttl) in written.into_iter().zip([LEASE_TTL, MAX_LEASE_TTL]) {
        let queues = vec![QueueLease::new(QUEUE, lease_ttl)];
        let request = ClaimRequest::new(queues, 1, Source::Pending);
        let claimed = only(claim(subject, &request).await.messages);
        assert_eq!(claimed.id, id);
        assert_eq!(
            (claimed.attempt, claimed.deliveries, claimed.lease_losses),
            (1, 1, 0)
        );
        let stored = state(subject, id).await;
        assert_eq!(
            (stored.attempts, stored.deliveries, stored.lease_losses),
            (1, 1, 0)
        );
        assert_about(stored.lease_left, lease_ttl);
    }
}

/// LEASE-02: concurrent claimers never get the same message, and together get all.
pub async fn concurrent_claimers_never_share_a_message(subject: &dyn Subject) {
    let written = enqueue_many(subject, 200).await;
    let mut delivered = Vec::new();
    loop {
        let claims = claim_side_by_side(subject, 8, 7, Source::Pending).await;
        let before = delivered.len();
        delivered.extend(claims.iter().flat_map(|claim| ids(&claim.messages)));
        if delivered.len() == before {
            break;
        }
        assert!(delivered.len() <= 200, "some were delivered twice");
    }
    assert_eq!(delivered.len(), 200, "each exactly once");
    let delivered: BTreeSet<_> = delivered.into_iter().collect();
    assert_eq!(delivered, written.into_iter().collect());
}

/// LEASE-03: the limit counts over all queues, which are served in the order of the request.
pub async fn the_limit_counts_over_all_queues(subject: &dyn Subject) {
    for queue in ["a", "b", "c"] {
        let messages = (0..3_u8).map(|n| message_to(queue, [n])).collect();
        enqueue(subject, messages).await;
    }
    let request = request(&["c", "a", "b"], 5, Source::Pending);
    let claimed = claim(subject, &request).await.messages;
    let queues: Vec<_> = claimed.iter().map(|claimed| &*claimed.queue).collect();
    assert_eq!(queues, ["c", "c", "c", "a", "a"]);
}

/// LEASE-04: a message is not claimed before it is due, however urgent it is.
pub async fn a_message_is_not_claimed_before_it_is_due(subject: &dyn Subject) {
    let later = with(message(*b"later"), |new| {
        new.due = Due::After(HOUR);
        new.priority = -3;
    });
    enqueue(subject, vec![later]).await;
    assert!(claim_pending(subject, 10).await.is_empty());
    subject.make_due().await;
    assert_eq!(claim_one(subject).await.payload, b"later");
}

/// LEASE-05: within a queue, priority decides before the due time, and the due time before the id.
pub async fn priority_then_due_time_then_id(subject: &dyn Subject) {
    let at = |payload: &[u8], priority, seconds| {
        with(message(payload), |new| {
            new.priority = priority;
            new.due = Due::At(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        })
    };
    let messages = vec![
        at(b"6", 3, 100),
        at(b"4", 0, 200),
        at(b"5", 0, 300),
        at(b"3", 0, 100),
        at(b"1", -3, 900),
        at(b"2", -1, 100),
    ];
    enqueue(subject, messages).await;
    let mut order = Vec::new();
    for limit in [2, 1, 3] {
        let claimed = claim_pending(subject, limit).await;
        order.extend(claimed.into_iter().flat_map(|claimed| claimed.payload));
    }
    assert_eq!(order, b"123456");
}

/// LEASE-06: messages of one priority and due time are claimed in id order.
pub async fn ties_are_claimed_in_id_order(subject: &dyn Subject) {
    let instant = SystemTime::UNIX_EPOCH + HOUR;
    let tied = |n: u8| with(message([n]), |new| new.due = Due::At(instant));
    let mut written = enqueue(subject, (0..50).map(tied).collect()).await;
    written.extend(enqueue(subject, (50..100).map(tied).collect()).await);
    let mut order = Vec::new();
    for _ in 0..10 {
        order.extend(ids(&claim_pending(subject, 10).await));
    }
    assert_eq!(order, written);
}

/// LEASE-07: a claim leaves the messages of other queues alone, from either source.
pub async fn other_queues_are_left_alone(subject: &dyn Subject) {
    let other = enqueue(subject, vec![message_to("orders", *b"x")]).await[0];
    assert!(claim_pending(subject, 10).await.is_empty());
    assert_eq!(state(subject, other).await.attempts, 0);
    only(
        claim(subject, &request(&["orders"], 1, Source::Pending))
            .await
            .messages,
    );
    subject.expire_leases().await;
    let answer = claim_expired(subject, 10).await;
    assert!(answer.messages.is_empty() && answer.dead.is_empty());
    assert_eq!(state(subject, other).await.lease_losses, 0);
}

/// LEASE-08: a held message is claimed again from neither source.
pub async fn a_held_message_is_not_claimed_again(subject: &dyn Subject) {
    let held = one_held(subject).await;
    assert!(claim_pending(subject, 10).await.is_empty());
    assert!(claim_expired(subject, 10).await.messages.is_empty());
    assert_eq!(state(subject, held.id).await.deliveries, 1);
}

/// LEASE-09: an answer without messages says when the next message is due and when the next lease
/// ends, in the queues asked for.
pub async fn an_empty_answer_says_when_to_come_back(subject: &dyn Subject) {
    let nothing = claim(subject, &request(&[QUEUE], 10, Source::Pending)).await;
    assert_eq!((nothing.next_due, nothing.next_expiry), (None, None));

    let later = |queue, hours| {
        with(message_to(queue, *b"x"), |new| {
            new.due = Due::After(HOUR * hours);
        })
    };
    let patient = with(later(QUEUE, 2), |new| new.priority = 2);
    let messages = vec![
        later("first", 4),
        later(QUEUE, 3),
        patient,
        later("elsewhere", 1),
        message_to("first", *b"now"),
        message(*b"now"),
        message_to("elsewhere", *b"now"),
    ];
    enqueue(subject, messages).await;
    for (queue, lease_ttl) in [
        ("first", HOUR),
        (QUEUE, LEASE_TTL),
        ("elsewhere", LEASE_TTL / 2),
    ] {
        let queues = vec![QueueLease::new(queue, lease_ttl)];
        let request = ClaimRequest::new(queues, 10, Source::Pending);
        only(claim(subject, &request).await.messages);
    }

    for queues in [&["first", QUEUE][..], &[QUEUE]] {
        for source in [Source::Pending, Source::Expired] {
            let answer = claim(subject, &request(queues, 10, source)).await;
            assert!(answer.messages.is_empty());
            assert_about(answer.next_due, HOUR * 2);
            assert_about(answer.next_expiry, LEASE_TTL);
        }
    }
}

/// LEASE-10: each queue has a lease of its own length.
pub async fn each_queue_has_its_own_lease(subject: &dyn Subject) {
    enqueue(
        subject,
        vec![message_to("a", *b"x"), message_to("b", *b"x")],
    )
    .await;
    let lease = |queue: &str, lease_ttl| QueueLease::new(queue, lease_ttl);
    let queues = vec![lease("a", HOUR), lease("b", HOUR * 5)];
    let request = ClaimRequest::new(queues, 10, Source::Pending);
    let claimed = claim(subject, &request).await.messages;
    assert_about(state(subject, claimed[0].id).await.lease_left, HOUR);
    assert_about(state(subject, claimed[1].id).await.lease_left, HOUR * 5);
}

/// LEASE-11: a resumed claim returns what its token holds, unchanged and under leases that begin
/// anew, and claims nothing new.
pub async fn a_resumed_claim_returns_the_same_messages(subject: &dyn Subject) {
    enqueue_many(subject, 5).await;
    let request = request(&[QUEUE], 3, Source::Pending);
    let first = claim(subject, &request).await.messages;
    assert_eq!(first.len(), 3);
    subject.expire_leases().await;
    let again = claim(subject, &request.clone().resumed()).await.messages;
    assert_eq!(ids(&again), ids(&first));
    for (again, first) in again.iter().zip(&first) {
        assert_eq!((again.attempt, again.deliveries), (1, 1));
        assert_eq!(again.payload, first.payload);
        let stored = state(subject, again.id).await;
        assert_about(stored.lease_left, LEASE_TTL);
        assert_eq!((stored.attempts, stored.lease_losses), (1, 0));
    }
    assert!(settle(subject, &first[0], Verdict::Done).await);
    let rest = claim(subject, &request.resumed()).await.messages;
    assert_eq!(ids(&rest), ids(&first)[1..]);
    assert_eq!(claim_pending(subject, 10).await.len(), 2);
}

/// LEASE-12: a resumed claim of a token that holds nothing claims anew.
pub async fn a_resumed_claim_that_leased_nothing_claims_anew(subject: &dyn Subject) {
    let written = enqueue_many(subject, 2).await;
    let request = request(&[QUEUE], 10, Source::Pending).resumed();
    let claimed = claim(subject, &request).await.messages;
    assert_eq!(ids(&claimed), written);
    assert_eq!(claimed[0].attempt, 1);
}

/// LEASE-13: a claim of expired leases can be resumed as well; the loss is counted once, and what is
/// beyond the limit is released with its loss.
pub async fn a_claim_of_expired_leases_can_be_resumed(subject: &dyn Subject) {
    enqueue_many(subject, 4).await;
    claim_pending(subject, 4).await;
    subject.expire_leases().await;
    let request = request(&[QUEUE], 3, Source::Expired);
    let first = claim(subject, &request).await.messages;
    let mut request = request.resumed();
    let again = claim(subject, &request).await.messages;
    assert_eq!(first.len(), 3);
    assert_eq!(sorted(ids(&again)), sorted(ids(&first)));
    assert!(again.iter().all(|claimed| claimed.lease_losses == 1));
    request.limit = 1;
    let kept = only(claim(subject, &request).await.messages);
    for id in ids(&first) {
        let stored = state(subject, id).await;
        assert_eq!(stored.is_held(), id == kept.id, "message {id}");
        assert_eq!(stored.attempts, u16::from(id == kept.id), "message {id}");
        assert_eq!(stored.lease_losses, 1, "message {id}");
    }
}

/// LEASE-14: an exchange settles and claims.
pub async fn an_exchange_settles_and_claims(subject: &dyn Subject) {
    enqueue_many(subject, 3).await;
    let held = claim_pending(subject, 2).await;
    let settlements: Vec<_> = held
        .iter()
        .map(|claimed| settlement(claimed, Verdict::Done))
        .collect();
    let request = request(&[QUEUE], 10, Source::Pending);
    let storage = subject.storage();
    let answer = storage.exchange(&settlements, &request).await;
    assert_eq!(answer.settled.expect("settle succeeds").written.len(), 2);
    let claimed = only(answer.claim.expect("claim succeeds").messages);
    assert_eq!(claimed.payload, [2]);

    let answer = storage.exchange(&[], &request).await;
    assert!(answer.settled.expect("settle succeeds").written.is_empty());
    assert!(answer.claim.expect("claim succeeds").messages.is_empty());
}

/// LEASE-15: a resumed claim returns the messages that start first, at most as many as its limit;
/// what else its token holds is released in the same step, each with its attempt and in its place.
/// Where priorities are declined, only due times decide what starts first.
pub async fn a_resumed_claim_gives_back_what_is_beyond_its_limit(subject: &dyn Subject) {
    let by_priority = !subject.declines().contains(&Capability::Priorities);
    let at = |queue, payload: &[u8], priority, seconds: [u64; 2]| {
        let seconds = seconds[usize::from(!by_priority)];
        with(message_to(queue, payload), |new| {
            new.priority = if by_priority { priority } else { 0 };
            new.due = Due::At(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        })
    };
    let messages = vec![
        at("b", b"6", -3, [100, 100]),
        at("a", b"5", 3, [100, 500]),
        at("a", b"4", 1, [300, 300]),
        at("a", b"2", 1, [200, 200]),
        at("a", b"3", 1, [200, 200]),
        at("a", b"1", -2, [900, 100]),
    ];
    enqueue(subject, messages).await;
    let mut request = request(&["a", "b"], 10, Source::Pending);
    let first = claim(subject, &request).await.messages;
    let payloads = |messages: &[Claimed]| -> Vec<u8> {
        let payloads = messages.iter().map(|claimed| claimed.payload.clone());
        payloads.flatten().collect()
    };
    assert_eq!(payloads(&first), b"123456");
    request.limit = 3;
    let again = claim(subject, &request.clone().resumed()).await.messages;
    assert_eq!(payloads(&again), b"123");
    for (place, claimed) in first.iter().enumerate() {
        let stored = state(subject, claimed.id).await;
        assert_eq!(stored.is_held(), place < 3, "message {}", place + 1);
        assert_eq!(stored.attempts, u16::from(place < 3));
        assert_eq!((stored.deliveries, stored.lease_losses), (1, 0));
    }
    // The first caller may have read its answer after all: what was given back is not its own.
    for claimed in &first[3..] {
        assert!(!settle(subject, claimed, Verdict::Done).await);
    }
    let again = claim(subject, &request.resumed()).await.messages;
    assert_eq!(
        payloads(&again),
        b"123",
        "nothing new while anything is held"
    );
    let rest = super::steps::request(&["a", "b"], 10, Source::Pending);
    let rest = claim(subject, &rest).await.messages;
    assert_eq!(payloads(&rest), b"456");
    assert_eq!((rest[0].attempt, rest[0].deliveries), (1, 2));
}

/// LEASE-16: the claim of an exchange is one like others: of either source, resumed where it is
/// asked to be, and without messages it says when to come back.
pub async fn the_claim_of_an_exchange_is_a_claim(subject: &dyn Subject) {
    enqueue_many(subject, 3).await;
    // Each exchange has something to settle: without that it may be a claim in another guise.
    let exchange = async |request: &ClaimRequest| {
        enqueue(subject, vec![message_to("orders", *b"x")]).await;
        let other = super::steps::request(&["orders"], 1, Source::Pending);
        let other = only(claim(subject, &other).await.messages);
        let settlements = [settlement(&other, Verdict::Done)];
        let answer = subject.storage().exchange(&settlements, request).await;
        let settled = answer.settled.expect("the exchange settles");
        assert_eq!(settled.written, [other.id]);
        answer.claim.expect("the exchange claims")
    };
    let pending = request(&[QUEUE], 3, Source::Pending);
    let first = exchange(&pending).await.messages;
    assert_eq!(first.len(), 3);
    let again = exchange(&pending.clone().resumed()).await.messages;
    assert_eq!(ids(&again), ids(&first), "what the token holds");
    assert!(again.iter().all(|claimed| claimed.token == pending.token));

    subject.expire_leases().await;
    let expired = request(&[QUEUE], 10, Source::Expired);
    let taken = exchange(&expired).await.messages;
    assert_eq!(sorted(ids(&taken)), ids(&first), "what was lost");
    assert!(taken.iter().all(|claimed| claimed.lease_losses == 1));
    let nothing = exchange(&request(&[QUEUE], 10, Source::Expired)).await;
    assert!(nothing.messages.is_empty());
    assert_about(nothing.next_expiry, LEASE_TTL);
}
