//! What claims learn about the marks, step by step and side by side.

use std::sync::Arc;

use outbox_core::{Claimed, Held, LeaseToken, MessageId};

use super::*;
use crate::timestamp::Timestamp;

const SECOND: Duration = Duration::from_secs(1);
const QUICK: Duration = Duration::from_millis(1);
/// The place of priority 0.
const MIDDLE: usize = 3;
const NOW: Timestamp = Timestamp(1_000_000_000);

fn queues() -> Vec<QueueLease> {
    vec![QueueLease::new("a", SECOND * 30)]
}

fn message(priority: i16, id: i64, due_at: Timestamp) -> Leased {
    let held = Held {
        id: MessageId(id),
        token: LeaseToken::random(),
    };
    Leased {
        claimed: Claimed::new(held, Arc::from("a"), Arc::from("k"), Vec::new()),
        priority,
        due_at,
        claimed_at: NOW,
    }
}

/// Messages of one due time that is long past.
fn old(ids: std::ops::Range<i64>) -> Vec<Leased> {
    ids.map(|id| message(0, id, Timestamp(5))).collect()
}

const fn mark(id: i64) -> Option<Mark> {
    Some(Mark {
        due_at: Timestamp(5),
        id,
    })
}

fn since(reading: &Reading<'_>, place: usize) -> Option<Mark> {
    reading.since().nth(place).expect("seven priorities")
}

/// A claim of ten messages of one priority; says where it began.
fn claim(marks: &Watermarks, at: Instant, took: Duration, found: &[Leased]) -> Option<Mark> {
    let queues = queues();
    let reading = marks.read(&queues, at);
    let began = since(&reading, MIDDLE);
    reading.answered(found, 10, at + took);
    began
}

#[test]
fn a_claim_after_a_full_one_begins_where_that_ended() {
    let (marks, now) = (Watermarks::default(), Instant::now());
    assert_eq!(claim(&marks, now, QUICK, &old(0..10)), None);
    assert_eq!(claim(&marks, now, QUICK, &old(10..20)), mark(9));
    assert_eq!(claim(&marks, now, QUICK, &old(20..23)), mark(19));
    assert_eq!(
        claim(&marks, now, QUICK, &[]),
        None,
        "after one that was not"
    );
}

#[test]
fn a_backlog_is_swept_once_a_second() {
    let (marks, now) = (Watermarks::default(), Instant::now());
    claim(&marks, now, QUICK, &old(0..10));
    let before = now + SECOND;
    assert_eq!(claim(&marks, before, QUICK, &old(10..20)), mark(9));
    let after = before + QUICK;
    assert_eq!(claim(&marks, after, QUICK, &old(20..30)), None);
    assert_eq!(claim(&marks, after + QUICK, QUICK, &old(30..40)), mark(29));
}

#[test]
fn a_sweep_that_finds_a_claim_full_before_the_mark_goes_on_there() {
    let (marks, now) = (Watermarks::default(), Instant::now());
    claim(&marks, now, QUICK, &old(100..110));
    let later = now + SECOND * 2;
    assert_eq!(claim(&marks, later, QUICK, &old(0..10)), None);
    assert_eq!(claim(&marks, later + QUICK, QUICK, &old(10..20)), mark(9));
}

#[test]
fn what_is_due_just_now_is_read_again() {
    let (marks, now) = (Watermarks::default(), Instant::now());
    let due = |before| message(0, 7, NOW.before(before));
    let full = |last| {
        let mut full = old(0..9);
        full.push(last);
        full
    };
    claim(&marks, now, QUICK, &full(due(COMMIT_TIME / 2)));
    let began = claim(&marks, now, QUICK, &full(due(COMMIT_TIME * 2)));
    let recent = Mark {
        due_at: NOW.before(COMMIT_TIME),
        id: i64::MIN,
    };
    assert_eq!(began, Some(recent));
}

#[test]
fn each_priority_has_a_mark_of_its_own() {
    let (marks, now, queues) = (Watermarks::default(), Instant::now(), queues());
    let mut found = vec![message(-1, 50, Timestamp(3))];
    found.extend(old(0..9));
    marks.read(&queues, now).answered(&found, 10, now);
    let next = marks.read(&queues, now);
    let urgent = Mark {
        due_at: Timestamp(3),
        id: 50,
    };
    let expected = [None, None, Some(urgent), mark(8), None, None, None];
    assert_eq!(next.since().collect::<Vec<_>>(), expected);
}

#[test]
fn each_queue_is_swept_by_itself() {
    let (marks, now) = (Watermarks::default(), Instant::now());
    claim(&marks, now, QUICK, &old(0..10));
    let both = vec![QueueLease::new("b", SECOND), QueueLease::new("a", SECOND)];
    let later = now + SECOND * 2;
    let reading = marks.read(&both, later);
    assert_eq!(since(&reading, 7 + MIDDLE), None);
    let mut of_b = old(0..10);
    for leased in &mut of_b {
        leased.claimed.queue = Arc::from("b");
    }
    reading.answered(&of_b, 10, later + QUICK);
    let began = claim(&marks, later + QUICK * 2, QUICK, &old(10..20));
    assert_eq!(began, None, "the one before has not come to it");
}

#[test]
fn claims_side_by_side_advance_a_mark_and_one_of_them_sweeps() {
    let (marks, now, queues) = (Watermarks::default(), Instant::now(), queues());
    claim(&marks, now, QUICK, &old(0..10));
    let (one, other) = (marks.read(&queues, now), marks.read(&queues, now));
    other.answered(&old(20..30), 10, now);
    one.answered(&old(10..20), 10, now);
    let later = now + SECOND * 2;
    let (one, other) = (marks.read(&queues, later), marks.read(&queues, later));
    assert_eq!(since(&one, MIDDLE), None);
    assert_eq!(since(&other, MIDDLE), mark(29));
    one.answered(&old(0..10), 10, later);
    // It began before the sweep that has found messages far before it.
    other.answered(&old(30..40), 10, later);
    assert_eq!(claim(&marks, later, QUICK, &old(10..20)), mark(9));
}

#[test]
fn without_a_backlog_claims_side_by_side_all_sweep() {
    let (marks, now, queues) = (Watermarks::default(), Instant::now(), queues());
    claim(&marks, now, QUICK, &old(0..10));
    claim(&marks, now, QUICK, &old(10..13));
    let (one, other) = (marks.read(&queues, now), marks.read(&queues, now));
    assert_eq!((since(&one, MIDDLE), since(&other, MIDDLE)), (None, None));
}

#[test]
fn where_sweeps_are_quick_nothing_is_left_out_of_what_comes_next() {
    let (marks, now) = (Watermarks::default(), Instant::now());
    claim(&marks, now, QUICK, &old(0..10));
    let ahead = marks.ahead(&queues(), now);
    assert_eq!((ahead.since[MIDDLE], ahead.sweep_in), (None, None));
}

/// Claims side by side, some of which fail, over messages that come in anywhere.
#[test]
fn no_message_is_overtaken_for_long_and_none_is_left() {
    for seed in 1..20_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |most: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % most
        };
        let (marks, queues, start) = (Watermarks::default(), queues(), Instant::now());
        // Since when each message could have been claimed.
        let mut waiting = std::collections::BTreeMap::new();
        let mut under_way: Vec<(Reading<'_>, Vec<i64>)> = Vec::new();
        let (mut now, mut newest) = (start, 0);
        for _ in 0..400 {
            now += Duration::from_millis(below(40));
            newest += 12;
            for _ in 0..below(9) {
                let id = if below(4) == 0 {
                    below(newest)
                } else {
                    newest + below(12)
                };
                waiting.entry(id as i64).or_insert(now);
            }
            if under_way.len() < 2 {
                let reading = marks.read(&queues, now);
                let from = since(&reading, MIDDLE).map_or(0, |mark| mark.id);
                let found: Vec<i64> = waiting.range(from..).map(|one| *one.0).take(4).collect();
                if let (4, Some(last)) = (found.len(), found.last()) {
                    let overtaken = waiting.range(..last).filter(|one| !found.contains(one.0));
                    for (id, came) in overtaken {
                        let waited = now.saturating_duration_since(*came);
                        assert!(waited < SECOND * 5 / 4, "{seed}: {id} for {waited:?}");
                    }
                }
                for id in &found {
                    waiting.remove(id);
                }
                under_way.push((reading, found));
                if below(3) == 0 {
                    continue;
                }
            }
            let (reading, found) = under_way.swap_remove(below(under_way.len() as u64) as usize);
            if below(10) == 0 {
                reading.failed(now);
                std::mem::forget(reading);
                waiting.extend(found.into_iter().map(|id| (id, now)));
            } else {
                let found: Vec<_> = found.iter().map(|id| old_one(*id)).collect();
                reading.answered(&found, 4, now);
            }
        }
        drop(under_way);
        loop {
            let reading = marks.read(&queues, now);
            let from = since(&reading, MIDDLE).map_or(0, |mark| mark.id);
            let found: Vec<i64> = waiting.range(from..).map(|one| *one.0).take(4).collect();
            waiting.retain(|id, _| !found.contains(id));
            let messages: Vec<_> = found.iter().map(|id| old_one(*id)).collect();
            let reach = reading.answered(&messages, 4, now);
            if found.is_empty() && reach != Reach::NotYet {
                break;
            }
        }
        assert!(waiting.is_empty(), "{seed}: {waiting:?}");
    }
}

fn old_one(id: i64) -> Leased {
    message(0, id, Timestamp(5))
}

#[test]
fn after_a_doubt_the_next_claim_sweeps_whatever_was_under_way() {
    let (marks, now, queues) = (Watermarks::default(), Instant::now(), queues());
    claim(&marks, now, QUICK, &old(0..10));
    let later = now + SECOND * 2;
    let sweep = marks.read(&queues, later);
    let claimed_on = marks.read(&queues, later);
    marks.doubt();
    sweep.answered(&old(10..20), 10, later);
    claimed_on.answered(&old(20..30), 10, later);
    assert_eq!(claim(&marks, later, QUICK, &old(30..40)), None);
}

#[test]
fn after_a_claim_that_failed_the_next_one_sweeps() {
    let (marks, now, queues) = (Watermarks::default(), Instant::now(), queues());
    claim(&marks, now, QUICK, &old(0..10));
    drop(marks.read(&queues, now));
    assert_eq!(claim(&marks, now, QUICK, &old(10..20)), None);
}

#[test]
fn a_claim_says_how_far_it_reached() {
    let (marks, now, queues) = (Watermarks::default(), Instant::now(), queues());
    let claim = |found: &[Leased]| marks.read(&queues, now).answered(found, 10, now);
    assert_eq!(claim(&old(0..10)), Reach::Whole);
    assert_eq!(claim(&old(10..20)), Reach::Marks);
    assert_eq!(claim(&[]), Reach::NotYet);
    assert_eq!(claim(&[]), Reach::Whole);
}

/// Marks of a queue that many messages were taken from, after two sweeps of a second, the last of
/// which was at `now`.
fn slow(now: Instant) -> Watermarks {
    let marks = Watermarks::default();
    marks.with(|state| state.count(&Arc::from("a"), MIDDLE, 1_000_000));
    let first = now.checked_sub(SECOND * 5).expect("it runs longer");
    claim(&marks, first, SECOND, &old(0..5));
    claim(&marks, now, SECOND, &old(0..10));
    marks
}

#[test]
fn slow_sweeps_take_one_part_in_twenty_of_the_time() {
    let (now, queues) = (Instant::now(), queues());
    let marks = slow(now);
    let end = now + SECOND * 21;
    let before = end.checked_sub(QUICK).expect("it is later");
    let reading = marks.read(&queues, before);
    assert_eq!(since(&reading, MIDDLE), mark(9));
    assert_eq!(reading.answered(&[], 10, before), Reach::Marks);
    assert_eq!(claim(&marks, end, SECOND * 9, &old(10..20)), None);
    let second = end + SECOND * (9 + 20);
    assert_eq!(claim(&marks, second, SECOND * 9, &old(20..30)), None);
    let longest = second + SECOND * (9 + 60);
    let before = longest.checked_sub(QUICK).expect("it is later");
    assert_eq!(claim(&marks, before, QUICK, &[]), mark(29));
    assert_eq!(claim(&marks, longest, QUICK, &[]), None);
    assert_eq!(claim(&marks, longest, QUICK, &[]), None, "it was quick");
}

#[test]
fn a_queue_is_clear_for_one_claim_after_a_look_at_all_of_it_that_saw_nothing() {
    let (now, queues) = (Instant::now(), queues());
    let (marks, slow) = (Watermarks::default(), slow(now));
    let is_of_clear = |marks: &Watermarks| marks.read(&queues, now).is_of_clear();
    let saw = |marks: &Watermarks, nothing| {
        let ahead = marks.ahead(&queues, now);
        marks.saw(&queues, &ahead, nothing);
    };
    assert!(!is_of_clear(&marks), "nobody has looked");
    saw(&marks, false);
    assert!(!is_of_clear(&marks));
    saw(&marks, true);
    assert!(is_of_clear(&marks));
    assert!(
        !is_of_clear(&marks),
        "that one may have taken some, or failed"
    );
    saw(&slow, true);
    let sweep = slow.read(&queues, now + SECOND * 21);
    assert!(sweep.since().all(|since| since.is_none()));
    assert!(!sweep.is_of_clear(), "it looked behind the marks alone");
}

#[test]
fn a_doubt_wastes_no_slow_sweep() {
    let (now, queues) = (Instant::now(), queues());
    let marks = slow(now);
    claim(&marks, now + SECOND * 2, QUICK, &old(100..110));
    let sweep = marks.read(&queues, now + SECOND * 21);
    assert_eq!(since(&sweep, MIDDLE), None);
    marks.doubt();
    let end = now + SECOND * 22;
    sweep.answered(&old(10..20), 10, end);
    assert_eq!(claim(&marks, end, QUICK, &old(20..30)), mark(19));
}

#[test]
fn a_worker_that_found_nothing_comes_back_for_the_sweep() {
    let (now, queues) = (Instant::now(), queues());
    let marks = slow(now);
    claim(&marks, now + SECOND * 2, QUICK, &[]);
    let ahead = marks.ahead(&queues, now + SECOND * 3);
    assert_eq!(ahead.since[MIDDLE], mark(9));
    assert_eq!(ahead.sweep_in, Some(SECOND * 18));
    // Idle is who may not come back before the end of a lease.
    let hints = ahead.hints(Reach::Marks, 1);
    assert_eq!(hints.sweep_in, Some(SECOND * 18));
    assert_eq!(hints.look_in, Some(SECOND));
    let hints = ahead.hints(Reach::Whole, 1);
    assert_eq!((hints.sweep_in, hints.look_in), (None, None));
    let ahead = marks.ahead(&queues, now + SECOND * 21);
    assert_eq!((ahead.since[MIDDLE], ahead.sweep_in), (None, None));
}

#[test]
fn one_sweep_that_was_held_up_is_followed_by_the_next_as_usual() {
    let (marks, now) = (Watermarks::default(), Instant::now());
    marks.with(|state| state.count(&Arc::from("a"), MIDDLE, 1_000_000));
    claim(&marks, now, SECOND * 3, &old(0..10));
    let after = now + SECOND * 4;
    assert_eq!(claim(&marks, after, QUICK, &old(10..20)), None);
    claim(&marks, after + SECOND, SECOND * 3, &old(20..23));
    let idle = after + SECOND * 4;
    assert_eq!(
        claim(&marks, idle, QUICK, &[]),
        None,
        "and without a backlog"
    );
}

#[test]
fn messages_from_before_a_quick_sweep_make_no_later_one_slow() {
    let (marks, now) = (Watermarks::default(), Instant::now());
    marks.with(|state| state.count(&Arc::from("a"), MIDDLE, 1_000_000));
    claim(&marks, now, QUICK, &old(0..10));
    for step in 1..4 {
        let began = claim(&marks, now + SECOND * 10 * step, SECOND, &old(10..13));
        assert_eq!(began, None, "{step}");
    }
}

#[test]
fn a_slow_sweep_that_fails_is_not_repeated_at_once() {
    let (now, queues) = (Instant::now(), queues());
    let ago = |seconds| now.checked_sub(SECOND * seconds).expect("it runs longer");
    let marks = slow(ago(30));
    drop(marks.read(&queues, ago(2)));
    let began = claim(&marks, now + SECOND * 19, QUICK, &old(10..20));
    assert_eq!(began, mark(9));
}
