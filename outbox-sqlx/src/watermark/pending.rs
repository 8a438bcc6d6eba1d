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

    /// Where sweeps are slow they come in their own time: what is under way then, which may be the
    /// only sweep of a minute, is learned from all the same.
    pub(super) fn doubt(&mut self) {
        if !self.is_slow() {
            self.epoch += 1;
            self.sweep.want();
        }
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
    of_clear: bool,
    begun: Instant,
    answered: bool,
}

impl Watermarks {
    /// Begins a claim of pending messages.
    pub(crate) fn read<'a>(&'a self, queues: &'a [QueueLease], now: Instant) -> Reading<'a> {
        let mut levels = Vec::with_capacity(queues.len() * LEVELS);
        let mut all_clear = true;
        self.with(|state| {
            for lease in queues {
                let queue = state.queue(&lease.queue);
                all_clear &= std::mem::take(&mut queue.is_clear);
                levels.extend(queue.levels.iter_mut().map(|level| Read {
                    since: level.begin(now),
                    epoch: level.epoch,
                }));
            }
        });
        Reading {
            marks: self,
            queues,
            of_clear: all_clear && levels.iter().all(|read: &Read| read.since.is_none()),
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

    /// Whether it reads from the beginning, of queues in which nothing was pending a moment ago.
    pub(crate) const fn is_of_clear(&self) -> bool {
        self.of_clear
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
    pub(super) fn failed(&self, now: Instant) {
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
mod tests;
