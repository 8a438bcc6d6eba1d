//! What a worker claims, step by step.

use std::sync::Arc;

use super::*;
use crate::lease::{Held, LeaseToken};
use crate::message::MessageId;
use crate::storage::Claimed;

const SECOND: Duration = Duration::from_secs(1);

fn queue(name: &str) -> QueueLease {
    QueueLease::new(name, SECOND * 30)
}

fn claiming(concurrency: usize, prefetch: usize, now: Instant) -> Claiming {
    let settings = Settings {
        concurrency,
        prefetch,
        ..Settings::default()
    };
    Claiming::new(vec![queue("a"), queue("b")], &settings, 1, now)
}

fn messages(count: usize) -> Claim {
    let message = Claimed::new(
        Held {
            id: MessageId(1),
            token: LeaseToken::random(),
        },
        Arc::from("a"),
        Arc::from("k"),
        Vec::new(),
    );
    Claim::new(vec![message; count])
}

/// Answers the first look for expired leases with nothing.
fn past_first_reclaim(claiming: &mut Claiming, now: Instant) {
    let request = claiming.plan(Holding::default(), now).expect("at start");
    assert_eq!(request.source, Source::Expired);
    claiming.answered(&request, &Claim::default(), now);
}

#[test]
fn a_starting_worker_looks_for_expired_leases_first_and_then_for_pending_messages() {
    let now = Instant::now();
    let mut claiming = claiming(10, 0, now);
    past_first_reclaim(&mut claiming, now);
    let request = claiming.plan(Holding::default(), now).expect("pending");
    assert_eq!((request.source, request.limit), (Source::Pending, 10));
    assert!(!request.resume);
}

#[test]
fn a_full_answer_is_followed_by_another_claim_as_soon_as_a_slot_is_free() {
    let now = Instant::now();
    let mut claiming = claiming(10, 0, now);
    past_first_reclaim(&mut claiming, now);
    let request = claiming.plan(Holding::default(), now).expect("pending");
    claiming.answered(&request, &messages(10), now);
    let busy = Holding {
        running: 10,
        ..Holding::default()
    };
    assert!(claiming.plan(busy, now).is_none(), "no slot is free");
    let freed = Holding { running: 7, ..busy };
    let request = claiming.plan(freed, now).expect("three slots are free");
    assert_eq!((request.source, request.limit), (Source::Pending, 3));
}

#[test]
fn after_some_messages_it_looks_for_more_while_they_run() {
    let now = Instant::now();
    let mut claiming = claiming(10, 0, now);
    past_first_reclaim(&mut claiming, now);
    let request = claiming.plan(Holding::default(), now).expect("pending");
    claiming.answered(&request, &messages(2), now);
    let running = Holding {
        running: 2,
        ..Holding::default()
    };
    let request = claiming.plan(running, now).expect("eight slots are free");
    assert_eq!((request.source, request.limit), (Source::Pending, 8));
    claiming.answered(&request, &Claim::default(), now);
    assert!(claiming.plan(running, now).is_none(), "that was all");
}

#[test]
fn a_hint_that_crosses_a_claim_is_not_lost() {
    let now = Instant::now();
    let mut claiming = claiming(10, 0, now);
    past_first_reclaim(&mut claiming, now);
    let request = claiming.plan(Holding::default(), now).expect("pending");
    claiming.woken();
    claiming.answered(&request, &Claim::default(), now);
    assert!(claiming.plan(Holding::default(), now).is_some());
}

#[test]
fn after_an_empty_answer_it_waits_for_the_poll_the_next_due_time_or_a_hint() {
    let now = Instant::now();
    let mut claiming = claiming(10, 0, now);
    past_first_reclaim(&mut claiming, now);
    let request = claiming.plan(Holding::default(), now).expect("pending");
    let empty = Claim {
        next_due: Some(Duration::from_millis(120)),
        ..Claim::default()
    };
    claiming.answered(&request, &empty, now);
    assert!(claiming.plan(Holding::default(), now).is_none());
    let due = now + Duration::from_millis(120);
    assert_eq!(claiming.next_change(Holding::default(), now), Some(due));
    let request = claiming.plan(Holding::default(), due).expect("due");
    let late = claiming.next_change(Holding::default(), due);
    assert_eq!(late, None, "not while it is under way");

    claiming.answered(&request, &Claim::default(), now);
    let poll = claiming.next_poll - now;
    assert!(poll >= SECOND.mul_f64(0.8) && poll <= SECOND.mul_f64(1.2));
    assert!(claiming.plan(Holding::default(), now).is_none());
    claiming.woken();
    assert!(claiming.plan(Holding::default(), now).is_some());
}

#[test]
fn messages_that_somebody_keeps_locked_are_asked_for_less_and_less_often() {
    let now = Instant::now();
    let mut claiming = claiming(10, 0, now);
    past_first_reclaim(&mut claiming, now);
    let request = claiming.plan(Holding::default(), now).expect("pending");
    let locked = Claim {
        next_due: Some(Duration::ZERO),
        ..Claim::default()
    };
    for pause in [10, 20, 40, 80, 160, 320, 640] {
        claiming.answered(&request, &locked, now);
        assert_eq!(claiming.next_poll, now + Duration::from_millis(pause));
    }
    claiming.answered(&request, &locked, now);
    assert!(claiming.next_poll <= now + SECOND.mul_f64(1.2), "the poll");
    claiming.answered(&request, &messages(1), now);
    claiming.answered(&request, &locked, now);
    assert_eq!(claiming.next_poll, now + Duration::from_millis(10));
}

#[test]
fn expired_leases_that_somebody_keeps_locked_wait_for_the_poll() {
    let now = Instant::now();
    let mut claiming = claiming(10, 0, now);
    let request = claiming.plan(Holding::default(), now).expect("expired");
    let locked = Claim {
        next_expiry: Some(Duration::ZERO),
        ..Claim::default()
    };
    claiming.answered(&request, &locked, now);
    assert_eq!(claiming.next_reclaim, now + SECOND);
}

#[test]
fn the_end_of_a_foreign_lease_is_looked_at_when_it_comes() {
    let now = Instant::now();
    let mut claiming = claiming(10, 0, now);
    past_first_reclaim(&mut claiming, now);
    let request = claiming.plan(Holding::default(), now).expect("pending");
    let empty = Claim {
        next_expiry: Some(Duration::from_millis(300)),
        ..Claim::default()
    };
    claiming.answered(&request, &empty, now);
    let expired = now + Duration::from_millis(300);
    let request = claiming.plan(Holding::default(), expired).expect("expired");
    assert_eq!(request.source, Source::Expired);
}

#[test]
fn expired_leases_are_looked_for_every_quarter_lease_and_under_load_with_every_poll() {
    let now = Instant::now();
    let quarter = now + SECOND * 30 / 4;
    let mut claiming = claiming(10, 0, now);
    past_first_reclaim(&mut claiming, now);
    let request = claiming.plan(Holding::default(), now).expect("pending");
    claiming.answered(&request, &messages(10), now);
    let next = claiming
        .plan(Holding::default(), now + SECOND)
        .expect("expired");
    assert_eq!(next.source, Source::Expired, "with the poll, under load");

    claiming.answered(&next, &Claim::default(), now);
    claiming.answered(&request, &Claim::default(), now);
    assert_eq!(
        claiming.next_reclaim, quarter,
        "no lease is held by anybody"
    );
    let next = claiming.plan(Holding::default(), quarter).expect("expired");
    assert_eq!(next.source, Source::Expired);
}

#[test]
fn suspects_come_in_small_lots_and_the_next_lot_waits_for_the_last() {
    let now = Instant::now();
    let mut claiming = claiming(100, 0, now);
    let request = claiming.plan(Holding::default(), now).expect("expired");
    assert_eq!((request.source, request.limit), (Source::Expired, 8));
    claiming.answered(&request, &messages(8), now);
    let suspects = Holding {
        running: 8,
        suspects: 1,
        ..Holding::default()
    };
    let request = claiming.plan(suspects, now).expect("ordinary ones go on");
    assert_eq!(request.source, Source::Pending);
    claiming.answered(&request, &messages(1), now);
    let ended = Holding {
        suspects: 0,
        ..suspects
    };
    let request = claiming.plan(ended, now).expect("the next lot");
    assert_eq!(request.source, Source::Expired);
}

#[test]
fn a_failed_claim_is_asked_for_again_under_its_token() {
    let now = Instant::now();
    let mut claiming = claiming(10, 0, now);
    past_first_reclaim(&mut claiming, now);
    let request = claiming.plan(Holding::default(), now).expect("pending");
    let token = request.token;
    claiming.failed(request);
    let again = claiming.plan(Holding::default(), now).expect("again");
    assert!(again.resume);
    assert_eq!(again.token, token);
}

#[test]
fn prefetch_follows_what_ran_recently() {
    let now = Instant::now();
    let mut claiming = claiming(10, 100, now);
    past_first_reclaim(&mut claiming, now);
    let slow = claiming.plan(Holding::default(), now).expect("pending");
    assert_eq!(slow.limit, 10, "nothing ran yet, so nothing is prefetched");
    claiming.answered(&slow, &messages(10), now);
    for step in 1..=20_u32 {
        claiming.finished(500, now + Duration::from_millis(50) * step);
    }
    let later = now + SECOND;
    claiming.next_reclaim = later + SECOND;
    let fast = claiming.plan(Holding::default(), later).expect("pending");
    assert_eq!(fast.limit, 110, "10,000 per second fill the prefetch");
    claiming.answered(&fast, &messages(110), later);
    let stocked = Holding {
        running: 10,
        ready: 51,
        ..Holding::default()
    };
    assert!(claiming.plan(stocked, later).is_none(), "half is in stock");
    let low = Holding {
        ready: 50,
        ..stocked
    };
    assert_eq!(claiming.plan(low, later).expect("low").limit, 50);
}

/// With lanes for two claims, and after a full answer.
fn deep(concurrency: usize, now: Instant) -> Claiming {
    let mut claiming = Claiming {
        lanes: 2,
        ..claiming(concurrency, 0, now)
    };
    past_first_reclaim(&mut claiming, now);
    let request = claiming.plan(Holding::default(), now).expect("pending");
    assert_eq!(request.limit, concurrency, "nothing is known yet");
    assert!(claiming.plan(Holding::default(), now).is_none());
    claiming.answered(&request, &messages(concurrency), now);
    claiming
}

#[test]
fn a_backlog_is_claimed_in_shares_one_beside_the_other() {
    let now = Instant::now();
    let mut claiming = deep(400, now);
    let first = claiming.plan(Holding::default(), now).expect("a share");
    let second = claiming.plan(Holding::default(), now).expect("the other");
    assert_eq!((first.limit, second.limit), (200, 200));
    assert!(claiming.plan(Holding::default(), now).is_none(), "no room");
    claiming.answered(&first, &messages(200), now);
    let holding = |running| Holding {
        running,
        ..Holding::default()
    };
    assert!(claiming.plan(holding(101), now).is_none(), "not worth it");
    let third = claiming.plan(holding(100), now).expect("half a share");
    assert_eq!(third.limit, 100);
}

#[test]
fn beside_a_claim_that_may_find_nothing_there_is_no_other() {
    let now = Instant::now();
    let mut claiming = deep(400, now);
    let last = claiming.plan(Holding::default(), now).expect("a share");
    claiming.answered(&last, &messages(199), now);
    let request = claiming.plan(Holding::default(), now).expect("pending");
    assert_eq!(request.limit, 400);
    claiming.woken();
    let busy = Holding::default();
    assert!(claiming.plan(busy, now).is_none(), "a hint waits for it");
    claiming.answered(&request, &Claim::default(), now);
    assert!(claiming.plan(busy, now).is_some(), "and is not lost");
}

/// Looks for pending messages together with outcomes, with lanes for two claims and ten slots of which so
/// many are taken.
fn beside_outcomes(running: usize, now: Instant) -> (Claiming, ClaimRequest) {
    let mut claiming = Claiming {
        lanes: 2,
        most_lanes: 2,
        ..claiming(10, 0, now)
    };
    past_first_reclaim(&mut claiming, now);
    let settling = Holding {
        running,
        settles: true,
        ..Holding::default()
    };
    let request = claiming.plan(settling, now).expect("pending");
    (claiming, request)
}

#[test]
fn a_claim_that_goes_with_outcomes_takes_half_of_what_room_is_left() {
    let now = Instant::now();
    for (running, limit) in [(0, 5), (6, 2), (7, 2), (9, 1)] {
        let (_, request) = beside_outcomes(running, now);
        assert_eq!(request.limit, limit, "beside {running}");
    }
}

#[test]
fn a_claim_that_is_asked_for_again_with_outcomes_is_not_waited_for_either() {
    let now = Instant::now();
    let (mut claiming, first) = beside_outcomes(0, now);
    claiming.failed(first);
    let settling = Holding {
        settles: true,
        ..Holding::default()
    };
    let again = claiming.plan(settling, now).expect("again");
    assert!(again.resume);
    claiming.woken();
    assert!(claiming.plan(Holding::default(), now).is_none());
    let later = now + Duration::from_millis(100);
    assert!(claiming.plan(Holding::default(), later).is_some());
}

#[test]
fn a_claim_that_waits_with_outcomes_leaves_room_to_another_after_a_tenth_of_a_second() {
    let now = Instant::now();
    let (mut claiming, first) = beside_outcomes(0, now);
    assert_eq!((first.source, first.limit), (Source::Pending, 5));
    claiming.woken();
    let later = now + Duration::from_millis(100);
    assert_eq!(claiming.next_change(Holding::default(), now), Some(later));
    let soon = later - Duration::from_millis(1);
    assert!(claiming.plan(Holding::default(), soon).is_none());
    let beside = claiming.plan(Holding::default(), later).expect("pending");
    assert_eq!((beside.source, beside.limit), (Source::Pending, 5));
    let late = now + SECOND * 5;
    assert_eq!(claiming.next_change(Holding::default(), late), None);
    claiming.woken();
    assert!(claiming.plan(Holding::default(), late).is_none(), "no room");
}

#[test]
fn beside_a_claim_that_waits_with_outcomes_the_poll_goes_on_where_there_is_room() {
    let now = Instant::now();
    let (mut claiming, _first) = beside_outcomes(0, now);
    let running = |running| Holding {
        running,
        ..Holding::default()
    };
    let later = now + Duration::from_millis(100);
    assert_eq!(claiming.next_change(running(5), later), None);
    let due = claiming
        .next_change(running(4), later)
        .expect("one is free");
    assert_eq!(due, claiming.next_poll.min(claiming.next_reclaim));
    let due = due.max(later);
    let beside = claiming.plan(running(4), due).expect("the poll");
    assert_eq!(beside.limit, 1);
}

#[test]
fn claims_that_failed_are_asked_for_again_one_by_one() {
    let now = Instant::now();
    let mut claiming = deep(400, now);
    let first = claiming.plan(Holding::default(), now).expect("a share");
    let second = claiming.plan(Holding::default(), now).expect("the other");
    let tokens = [first.token, second.token];
    claiming.failed(first);
    claiming.failed(second);
    assert!(claiming.is_unresolved());
    let again = tokens.map(|_| claiming.plan(Holding::default(), now).expect("again"));
    assert!(again.iter().all(|request| request.resume));
    assert_eq!(again.map(|request| request.token), tokens);
    assert!(!claiming.is_unresolved());
}

#[test]
fn expired_leases_are_looked_for_by_one_claim_at_a_time() {
    let now = Instant::now();
    let mut claiming = deep(400, now);
    let later = now + SECOND;
    let first = claiming.plan(Holding::default(), later).expect("expired");
    assert_eq!(first.source, Source::Expired);
    let beside = claiming.plan(Holding::default(), later).expect("a share");
    assert_eq!(beside.source, Source::Pending);
}

#[test]
fn a_claim_that_is_asked_for_again_counts_and_asks_for_no_more_than_before() {
    let now = Instant::now();
    let mut claiming = deep(400, now);
    let first = claiming.plan(Holding::default(), now).expect("a share");
    let second = claiming.plan(Holding::default(), now).expect("the other");
    claiming.failed(first);
    for _ in 0..20 {
        claiming.answered(&second, &messages(200), now);
    }
    let again = claiming.plan(Holding::default(), now).expect("again");
    assert!(again.resume);
    assert_eq!(again.limit, 200, "although larger ones succeed");
    let beside = claiming.plan(Holding::default(), now).expect("a share");
    assert_eq!(beside.limit, 200);
    assert!(claiming.plan(Holding::default(), now).is_none(), "no room");
}

#[test]
fn queues_take_turns_at_being_first() {
    let now = Instant::now();
    let mut claiming = claiming(10, 0, now);
    let first = claiming.request(1, Source::Pending);
    let second = claiming.request(1, Source::Pending);
    assert_ne!(first.queues[0], second.queues[0]);
    assert_ne!(first.token, second.token);
}

#[test]
fn queues_take_turns_where_the_sources_alternate() {
    let now = Instant::now();
    let mut claiming = claiming(10, 0, now);
    let mut firsts = |source| {
        claiming.request(1, Source::Expired);
        claiming.request(1, source).queues[0].queue.to_string()
    };
    assert_ne!(firsts(Source::Pending), firsts(Source::Pending));
}

#[test]
fn a_claim_after_one_that_failed_is_smaller_and_later_ones_grow_again() {
    let now = Instant::now();
    let mut claiming = claiming(400, 0, now);
    past_first_reclaim(&mut claiming, now);
    let request = claiming.plan(Holding::default(), now).expect("pending");
    assert_eq!(request.limit, 400);
    claiming.failed(request);
    let again = claiming.plan(Holding::default(), now).expect("again");
    assert_eq!(again.limit, 200);
    claiming.failed(again);
    let again = claiming.plan(Holding::default(), now).expect("again");
    assert_eq!(again.limit, 100);
    claiming.answered(&again, &messages(100), now);
    let next = claiming.plan(Holding::default(), now).expect("pending");
    assert_eq!(next.limit, 113);
    for _ in 0..20 {
        claiming.answered(&next, &messages(1), now);
    }
    let next = claiming.plan(Holding::default(), now).expect("pending");
    assert_eq!(next.limit, 400);
}
