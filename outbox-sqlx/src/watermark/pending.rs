//! The marks of pending messages, one for each queue and priority.

use std::time::{Duration, Instant};

use outbox_core::{PRIORITIES, QueueLease};

use super::sweep::{self, Cost, Sweep};
use super::{LEVELS, Mark, Reach, Watermarks};
use crate::rows::Leased;

/// Transactions commit in another order than their messages are due in. Those that are due for less
/// than this are read again by every claim, so that one whose transaction takes no longer than this
/// is never behind a mark.
const COMMIT_TIME: Duration = Duration::from_millis(100);

/// What is known about one queue and priority.
#[derive(Default)]
pub(super) struct Level {
    mark: Option<Mark>,
    sweep: Sweep,
    /// What the last sweep took. One alone says nothing: a lock, the network or a busy machine may
    /// have held it up.
    last_took: Duration,
    /// How many messages were claimed since a sweep was quick: no more than those, and what a quick
    /// one passes, can be in the way of the next.
    taken: u64,
    /// Changes with everything but an advance of the mark.
    epoch: u64,
}

impl Level {
    pub(super) const fn count(&mut self, messages: u64) {
        self.taken += messages;
    }

    fn is_slow(&self) -> bool {
        self.sweep.is_slow(Cost { taken: self.taken })
    }

    fn swept(&mut self, took: Duration, now: Instant) {
        self.sweep.done(took.min(self.last_took), now);
        self.last_took = took;
        if sweep::is_quick(took) {
            self.taken = 0;
        }
    }

    fn begin(&mut self, now: Instant) -> Option<Mark> {
        if !self.sweep.is_due(now) {
            return self.mark;
        }
        self.sweep.begin(now);
        None
    }

    /// Where to look, and how long until a claim sweeps, if sweeping is slow.
    pub(super) fn ahead(&self, now: Instant) -> Option<(Mark, Duration)> {
        let waits = self.is_slow() && !self.sweep.is_due(now);
        self.mark
            .filter(|_| waits)
            .map(|mark| (mark, self.sweep.wait(now)))
    }

    pub(super) fn doubt(&mut self) {
        self.epoch += 1;
        self.want_sweep();
    }

    fn want_sweep(&mut self) {
        if !self.is_slow() {
            self.sweep.want();
        }
    }

    fn answered(&mut self, read: &Read, found: &Found, now: Instant) {
        if self.epoch != read.epoch {
            return;
        }
        if read.since.is_none() {
            self.epoch += 1;
            self.swept(found.took, now);
        }
        if !found.full {
            self.want_sweep();
        }
        // A sweep that stopped at its limit has found messages before the mark, and may have left
        // others there; everything else that was taken is beyond it.
        self.mark = if read.since.is_none() && found.stopped_here {
            found.last
        } else {
            self.mark.max(found.last)
        };
    }

    fn failed(&mut self, read: &Read, took: Duration, now: Instant) {
        if self.epoch != read.epoch {
            return;
        }
        if read.since.is_none() && self.mark.is_some() {
            self.swept(took, now);
        }
        self.want_sweep();
    }
}

/// One level as a claim reads it.
#[derive(Clone, Copy)]
struct Read {
    since: Option<Mark>,
    epoch: u64,
}

/// What a claim found in one level.
struct Found {
    last: Option<Mark>,
    /// The claim came back full.
    full: bool,
    /// With a message of this level.
    stopped_here: bool,
    took: Duration,
}

/// A claim of pending messages that is under way.
pub(crate) struct Reading<'a> {
    marks: &'a Watermarks,
    queues: &'a [QueueLease],
    /// For each queue and priority.
    levels: Vec<Read>,
    begun: Instant,
    answered: bool,
}

impl Watermarks {
    /// Begins a claim of pending messages.
    pub(crate) fn read<'a>(&'a self, queues: &'a [QueueLease], now: Instant) -> Reading<'a> {
        let mut levels = Vec::with_capacity(queues.len() * LEVELS);
        self.with(|state| {
            for lease in queues {
                let queue = state.queue(&lease.queue);
                levels.extend(queue.levels.iter_mut().map(|level| Read {
                    since: level.begin(now),
                    epoch: level.epoch,
                }));
            }
        });
        Reading {
            marks: self,
            queues,
            levels,
            begun: now,
            answered: false,
        }
    }
}

impl Reading<'_> {
    /// For each queue and priority: where to begin, `None` for the beginning.
    pub(crate) fn since(&self) -> impl Iterator<Item = Option<Mark>> {
        self.levels.iter().map(|read| read.since)
    }

    /// The claim was answered with these messages, in the order in which they start.
    pub(crate) fn answered(mut self, messages: &[Leased], limit: usize, now: Instant) -> Reach {
        self.answered = true;
        let took = now.saturating_duration_since(self.begun);
        let full = messages.len() >= limit;
        let mut last = vec![None; self.levels.len()];
        let mut reached = None;
        let same_level = |one: &Leased, next: &Leased| {
            one.priority == next.priority && one.claimed.queue == next.claimed.queue
        };
        self.marks.with(|state| {
            for of_level in messages.chunk_by(same_level) {
                let Some(newest) = of_level.last() else {
                    continue;
                };
                state.clock = Some(newest.claimed_at);
                if let Some(place) = self.place(newest) {
                    let queue = &self.queues[place / LEVELS].queue;
                    state.count(queue, place % LEVELS, of_level.len() as u64);
                    last[place] = Some(mark_of(newest));
                    reached = Some(place);
                }
            }
            let mut sweeps_next = false;
            for (place, read) in self.levels.iter().enumerate() {
                let queue = state.queue(&self.queues[place / LEVELS].queue);
                let level = &mut queue.levels[place % LEVELS];
                if full && reached.is_some_and(|reached| place > reached) {
                    // Not read, so not swept either.
                    if read.since.is_none() && level.epoch == read.epoch {
                        level.sweep.want();
                    }
                    continue;
                }
                let found = Found {
                    last: last[place],
                    full,
                    stopped_here: full && reached == Some(place),
                    took,
                };
                level.answered(read, &found, now);
                sweeps_next |= read.since.is_some() && level.sweep.is_due(now);
            }
            if self.levels.iter().all(|read| read.since.is_none()) {
                Reach::Whole
            } else if sweeps_next {
                Reach::NotYet
            } else {
                Reach::Marks
            }
        })
    }

    /// The claim failed. What it leased may have been given back before the marks.
    fn failed(&self, now: Instant) {
        let took = now.saturating_duration_since(self.begun);
        self.marks.with(|state| {
            for (place, read) in self.levels.iter().enumerate() {
                let queue = state.queue(&self.queues[place / LEVELS].queue);
                queue.levels[place % LEVELS].failed(read, took, now);
            }
        });
    }

    fn place(&self, message: &Leased) -> Option<usize> {
        let queue = &message.claimed.queue;
        let queue = self.queues.iter().position(|lease| lease.queue == *queue)?;
        let mut priorities = PRIORITIES;
        let level = priorities.position(|priority| priority == message.priority)?;
        Some(queue * LEVELS + level)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.failed(Instant::now());
        }
    }
}

fn mark_of(message: &Leased) -> Mark {
    let mark = Mark {
        due_at: message.due_at,
        id: message.claimed.id.0,
    };
    let committed = Mark {
        due_at: message.claimed_at.before(COMMIT_TIME),
        id: i64::MIN,
    };
    mark.min(committed)
}

#[cfg(test)]
mod tests {
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
}
