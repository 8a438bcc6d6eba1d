//! Watermarks: how far claims have read each index, so that the next one does not wade through the
//! entries of what was taken before. Vacuum removes those later, and not at all while any
//! transaction in the database is older than they are.
//!
//! A mark is a place to begin, and never proof that nothing is left before it: a late commit, a
//! release or another program puts messages there. So a claim *sweeps*, which is to read from the
//! beginning, at least once a second, and always once there is no backlog. Only where sweeps are
//! slow do they become rare, as `sweep.rs` says.
//!
//! Nothing here asks the database; the time is handed in, and is this process's own where it paces
//! sweeps and the database's where it bounds a scan.

mod leases;
mod pending;
mod sweep;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use outbox_core::QueueLease;

use self::leases::Leases;
use self::pending::Level;
use self::sweep::Cost;
use crate::timestamp::Timestamp;

/// One for each of [`PRIORITIES`](outbox_core::PRIORITIES).
const LEVELS: usize = 7;

/// The marks of a storage. Claims run side by side: what one of them learns is written only if no
/// other has changed the same mark since it began.
#[derive(Default)]
pub(crate) struct Watermarks {
    // Guards the marks; never held over an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those that were ever claimed from.
    queues: HashMap<Arc<str>, Queue>,
    /// The database's time in its last answer: not later than any statement sent after it.
    clock: Option<Timestamp>,
}

#[derive(Default)]
struct Queue {
    levels: [Level; LEVELS],
    leases: Leases,
    /// How many messages were claimed from it.
    taken: u64,
    /// The last look found nothing pending, neither due nor to come, and no claim was begun since.
    is_clear: bool,
}

impl State {
    fn queue(&mut self, name: &Arc<str>) -> &mut Queue {
        self.queues.entry(Arc::clone(name)).or_default()
    }

    /// So many messages of one priority were claimed.
    fn count(&mut self, queue: &Arc<str>, level: usize, messages: u64) {
        let queue = self.queue(queue);
        queue.taken += messages;
        queue.levels[level].count(messages);
    }
}

impl Queue {
    const fn cost(&self) -> Cost {
        Cost { taken: self.taken }
    }
}

/// Where to look for what comes next, when a claim has found nothing.
pub(crate) struct Ahead {
    /// For each queue and priority: where its messages begin, `None` for the beginning.
    pub(crate) since: Vec<Option<Mark>>,
    /// The queues whose leases are worth looking at.
    pub(crate) lease_queues: Vec<String>,
    /// When a claim sweeps, where what it would find is not looked for now.
    pub(crate) sweep_in: Option<Duration>,
}

/// How far back a claim of pending messages has looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// From the beginning.
    Whole,
    /// From marks, and the next claim will be from the beginning.
    NotYet,
    /// From marks, and the next claim may be as well: sweeping is slow.
    Marks,
}

/// Where the ends of leases cannot be looked for at once, the next look for those that have ended
/// comes this soon.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// When to come back for what was not looked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hints {
    pub(crate) sweep_in: Option<Duration>,
    pub(crate) look_in: Option<Duration>,
}

impl Ahead {
    /// Whether it looks at all messages that are pending.
    fn is_whole(&self) -> bool {
        self.since.iter().all(Option::is_none)
    }

    /// After a claim that found nothing and reached so far, of so many queues.
    pub(crate) fn hints(&self, reach: Reach, queues: usize) -> Hints {
        // A sweep has just found that nothing is left.
        let sweep_in = self.sweep_in.filter(|_| reach != Reach::Whole);
        // A worker that runs until idle ends where nothing is due soon and no lease is held. What is
        // before a mark may be due, however long it is until the sweep that finds it.
        let unsure = sweep_in.is_some() || self.lease_queues.len() < queues;
        Hints {
            sweep_in,
            look_in: unsure.then_some(LOOK_AGAIN),
        }
    }
}

/// A place in the index of pending messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    pub(crate) due_at: Timestamp,
    pub(crate) id: i64,
}

impl Watermarks {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Something may have been put before the marks: the next claim sweeps.
    pub(crate) fn doubt(&self) {
        self.with(|state| {
            for queue in state.queues.values_mut() {
                for level in &mut queue.levels {
                    level.doubt();
                }
            }
        });
    }

    /// Where to look for what comes next in these queues. From the beginning, except where that is
    /// slow: there a claim sweeps in its own time.
    pub(crate) fn ahead(&self, queues: &[QueueLease], now: Instant) -> Ahead {
        let mut ahead = Ahead {
            since: Vec::with_capacity(queues.len() * LEVELS),
            lease_queues: Vec::with_capacity(queues.len()),
            sweep_in: None,
        };
        self.with(|state| {
            for lease in queues {
                let queue = state.queues.get(&lease.queue);
                let levels = queue.into_iter().flat_map(|queue| &queue.levels);
                let levels = levels.map(|level| level.ahead(now));
                let mut levels: Vec<_> = levels.collect();
                levels.resize(LEVELS, None);
                for level in levels {
                    let wait = level.map(|(_, wait)| wait);
                    ahead.sweep_in = ahead.sweep_in.into_iter().chain(wait).min();
                    ahead.since.push(level.map(|(mark, _)| mark));
                }
                if queue.is_none_or(|queue| queue.leases.are_cheap(queue.cost(), now)) {
                    ahead.lease_queues.push(lease.queue.to_string());
                }
            }
        });
        ahead
    }

    /// A look at these queues was answered. Where it saw `nothing` that is pending, the next claim may
    /// read whatever is there.
    pub(crate) fn saw(&self, queues: &[QueueLease], ahead: &Ahead, nothing: bool) {
        let is_clear = nothing && ahead.is_whole();
        self.with(|state| {
            for lease in queues {
                state.queue(&lease.queue).is_clear = is_clear;
            }
        });
    }

    /// A look was answered at `asked_at` by the database's clock, in this time.
    pub(crate) fn looked_ahead(
        &self,
        ahead: &Ahead,
        asked_at: Timestamp,
        took: Duration,
        now: Instant,
    ) {
        self.with(|state| {
            state.clock = Some(asked_at);
            for queue in &ahead.lease_queues {
                if let Some(queue) = state.queues.get_mut(queue.as_str()) {
                    queue.leases.looked_ahead(took, now);
                }
            }
        });
    }
}

#[cfg(test)]
mod model;
