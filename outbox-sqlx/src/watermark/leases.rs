//! The marks of leases: the end of a lease before which none is left. They are used only where
//! looking from the beginning is slow.

use std::time::{Duration, Instant};

use outbox_core::QueueLease;

use super::Watermarks;
use super::sweep::{Cost, Sweep};
use crate::timestamp::Timestamp;

/// How long ago a lease may have ended when a look with a mark finds it. Each look covers all ends
/// since the one before; this is for what was locked then, or written by a statement that took
/// longer than its lease.
const OVERLAP: Duration = Duration::from_secs(1);

/// What is known about the leases of one queue.
#[derive(Default)]
pub(super) struct Leases {
    /// No lease that ended before was left when a look was answered.
    floor: Option<Timestamp>,
    sweep: Sweep,
}

impl Leases {
    pub(super) fn are_cheap(&self, cost: Cost, now: Instant) -> bool {
        !self.sweep.is_slow(cost) || self.sweep.is_due(now)
    }

    /// The first lease that ends was looked for from the beginning, which passes the entries of all
    /// that were settled. A claim passes only those that would have ended by now, and may be quick
    /// where this is slow.
    pub(super) fn looked_ahead(&mut self, took: Duration, now: Instant) {
        let mut slower = self.sweep;
        slower.done(took, now);
        if slower.wait(now) >= self.sweep.wait(now) {
            self.sweep = slower;
        }
    }

    fn begin(&mut self, cost: Cost, now: Instant) -> Option<Timestamp> {
        if !self.are_cheap(cost, now) {
            return self.floor;
        }
        self.sweep.begin(now);
        None
    }
}

/// A claim of expired leases that is under way.
pub(crate) struct Look<'a> {
    marks: &'a Watermarks,
    queues: &'a [QueueLease],
    since: Vec<Option<Timestamp>>,
    clock: Option<Timestamp>,
    begun: Instant,
    answered: bool,
}

impl Watermarks {
    /// Begins a claim of expired leases.
    pub(crate) fn look<'a>(&'a self, queues: &'a [QueueLease], now: Instant) -> Look<'a> {
        let (since, clock) = self.with(|state| {
            let since = queues.iter().map(|lease| {
                let queue = state.queues.get_mut(&lease.queue)?;
                queue.leases.begin(queue.cost(), now)
            });
            (since.collect(), state.clock)
        });
        Look {
            marks: self,
            queues,
            since,
            clock,
            begun: now,
            answered: false,
        }
    }
}

impl Look<'_> {
    /// For each queue: the end of a lease from which to look, `None` for the beginning.
    pub(crate) fn since(&self) -> &[Option<Timestamp>] {
        &self.since
    }

    /// The claim was answered, with messages or dead letters or without.
    pub(crate) fn answered(mut self, found_some: bool, now: Instant) {
        self.answered = true;
        self.learn(now, |leases, clock| {
            // Something that was found may have been one of many.
            if let Some(clock) = clock
                && !found_some
            {
                leases.floor = Some(clock.before(OVERLAP));
            }
        });
    }

    fn learn(&self, now: Instant, more: impl Fn(&mut Leases, Option<Timestamp>)) {
        let took = now.saturating_duration_since(self.begun);
        self.marks.with(|state| {
            for (lease, since) in self.queues.iter().zip(&self.since) {
                let leases = &mut state.queue(&lease.queue).leases;
                if since.is_none() {
                    leases.sweep.done(took, now);
                }
                more(leases, self.clock);
            }
        });
    }
}

impl Drop for Look<'_> {
    /// The claim failed, or was dropped: it is not repeated at once if that took long.
    fn drop(&mut self) {
        if !self.answered {
            self.learn(Instant::now(), |_, _| {});
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: i64 = 60_000_000;

    fn queues() -> Vec<QueueLease> {
        vec![QueueLease::new("a", SECOND * 30)]
    }

    /// Marks of a queue that many messages were taken from, with the database at 00:10.
    fn busy(taken: u64) -> Watermarks {
        let marks = Watermarks::default();
        marks.with(|state| {
            state.queue(&std::sync::Arc::from("a")).taken = taken;
            state.clock = Some(Timestamp(10 * MINUTE));
        });
        marks
    }

    fn look(marks: &Watermarks, at: Instant, took: Duration) -> Option<Timestamp> {
        let queues = queues();
        let look = marks.look(&queues, at);
        let since = look.since()[0];
        look.answered(false, at + took);
        since
    }

    #[test]
    fn quick_looks_are_always_from_the_beginning() {
        let (marks, now) = (busy(1_000_000), Instant::now());
        for step in 0..5 {
            let since = look(&marks, now + SECOND * step, Duration::from_millis(40));
            assert_eq!(since, None);
        }
    }

    #[test]
    fn slow_looks_are_rare_and_others_begin_where_the_last_one_was() {
        let (marks, now) = (busy(1_000_000), Instant::now());
        assert_eq!(look(&marks, now, SECOND), None);
        let before = Some(Timestamp(10 * MINUTE - 1_000_000));
        assert_eq!(look(&marks, now + SECOND * 2, SECOND / 50), before);
        marks.with(|state| state.clock = Some(Timestamp(11 * MINUTE)));
        look(&marks, now + SECOND * 3, SECOND / 50);
        let later = Some(Timestamp(11 * MINUTE - 1_000_000));
        assert_eq!(look(&marks, now + SECOND * 20, SECOND / 50), later);
        assert_eq!(look(&marks, now + SECOND * 21, SECOND / 50), None);
        assert_eq!(look(&marks, now + SECOND * 22, SECOND / 50), None, "quick");
    }

    #[test]
    fn a_look_that_found_something_moves_no_mark() {
        let (marks, now, queues) = (busy(1_000_000), Instant::now(), queues());
        marks.look(&queues, now).answered(true, now + SECOND);
        assert_eq!(look(&marks, now + SECOND * 2, SECOND), None);
    }

    #[test]
    fn a_slow_answer_about_few_messages_was_held_up_by_something_else() {
        let (marks, now) = (busy(9_999), Instant::now());
        look(&marks, now, SECOND * 3);
        assert_eq!(look(&marks, now + SECOND * 4, SECOND), None);
    }

    #[test]
    fn leases_are_looked_for_ahead_only_where_that_is_quick() {
        let (marks, now, queues) = (busy(1_000_000), Instant::now(), queues());
        look(&marks, now, SECOND / 100);
        let ahead = marks.ahead(&queues, now);
        assert_eq!(ahead.lease_queues, ["a"]);
        let at = Timestamp(10 * MINUTE);
        marks.looked_ahead(&ahead, at, SECOND, now);
        assert!(
            marks
                .ahead(&queues, now + SECOND * 19)
                .lease_queues
                .is_empty()
        );
        assert!(look(&marks, now + SECOND * 19, SECOND / 100).is_some());
        assert_eq!(marks.ahead(&queues, now + SECOND * 20).lease_queues, ["a"]);
    }

    #[test]
    fn a_look_that_failed_slowly_is_not_repeated_at_once() {
        let (marks, queues) = (busy(1_000_000), queues());
        let now = Instant::now();
        look(&marks, now, SECOND / 100);
        let begun = now.checked_sub(SECOND).expect("the clock runs longer");
        drop(marks.look(&queues, begun));
        assert!(marks.look(&queues, now + SECOND).since()[0].is_some());
    }
}
