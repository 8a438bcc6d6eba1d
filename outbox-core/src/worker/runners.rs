//! Runners: a few tasks that give each started run its first poll. Most handlers of small work are
//! ready at once and need no task of their own; one that is not, gets one.
//!
//! They also keep the slots. A few runs wait in line for the next that is free, so that whoever ends
//! one begins the next itself, without a word to the agent.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures_util::future::{FutureExt, poll_fn};

use super::execute::{Begun, Run, Shared};
use super::verdict::{caught, panic_message};
use crate::runtime::yield_once;

/// How long a runner goes on before it lets other tasks of the runtime run.
const SLICE: Duration = Duration::from_micros(500);

/// The line of started runs, the slots they wait for, and how many serve them.
pub(super) struct Runners {
    shared: Arc<Shared>,
    /// How many runners there are without need: one for each thread.
    most: usize,
}

/// What runners and runs share. A run that ends frees its slot.
pub(super) struct Slots {
    // Guards the line and the counts; never held over an await.
    state: Mutex<State>,
}

struct State {
    line: VecDeque<Run>,
    free: usize,
    /// How many runners there are.
    active: usize,
    /// Of these, how many the runtime has not polled yet.
    fresh: usize,
    /// A run was taken from the line since the last look.
    came_on: bool,
    /// The agent looks after the runners, or was told to. Otherwise none of them can hold up others.
    watched: bool,
}

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        Self {
            state: Mutex::new(State {
                line: VecDeque::new(),
                free: count,
                active: 0,
                fresh: 0,
                came_on: false,
                watched: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run that was taken from the line has ended.
    pub(super) fn release(&self) {
        self.lock().free += 1;
    }
}

impl State {
    /// How many runs could begin now.
    fn startable(&self) -> usize {
        self.free.min(self.line.len())
    }

    /// Has the agent look if there is more to take by a runner, which its handlers may block. Returns
    /// whether the agent has to be told.
    fn watch(&mut self) -> bool {
        let begins = !self.watched && self.active > 0 && !self.line.is_empty();
        self.watched |= begins;
        begins
    }

    /// So many runners are started.
    fn engage(&mut self, count: usize) {
        self.active += count;
        self.fresh += count;
    }

    /// The next run, in a slot of its own.
    fn take(&mut self) -> Option<Run> {
        if self.free == 0 {
            return None;
        }
        let mut run = self.line.pop_front()?;
        run.take_slot();
        self.free -= 1;
        self.came_on = true;
        Some(run)
    }
}

impl Runners {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let most = shared.runtime.parallelism().max(1);
        Self { shared, most }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.slots.lock()
    }

    /// Puts a run in the line. It begins once there is a runner: see [`staff`](Self::staff).
    pub(super) fn put(&self, run: Run) {
        self.lock().line.push_back(run);
    }

    /// How many runs are in the line.
    pub(super) fn waiting(&self) -> usize {
        self.lock().line.len()
    }

    /// How many runs in the line wait for others to end. While there are some, the worker has started as
    /// many as it may.
    pub(super) fn stocked(&self) -> usize {
        let state = self.lock();
        state.line.len().saturating_sub(state.free)
    }

    /// Whether there are runs that could begin, and runners that the runtime has not come to yet. The agent
    /// is woken when one of these has had its first turn.
    pub(super) fn are_to_begin(&self) -> bool {
        let state = self.lock();
        state.fresh > 0 && state.startable() > 0
    }

    /// Whether the agent is to look after the runners: see [`look`](Self::look).
    pub(super) fn is_watched(&self) -> bool {
        self.lock().watched
    }

    /// Ends all that is in the line, as the worker begins nothing any more.
    pub(super) fn clear(&self) {
        let line = std::mem::take(&mut self.lock().line);
        line.into_iter().for_each(Run::cancel);
    }

    /// Starts runners for what can begin, as many as can run at the same moment.
    pub(super) fn staff(self: &Arc<Self>) {
        let more = {
            let mut state = self.lock();
            let wanted = self.most.min(state.startable());
            let more = wanted.saturating_sub(state.active);
            state.engage(more);
            state.watch();
            more
        };
        self.spawn(more);
    }

    /// Looks whether the runners came on since the last look. If not, handlers block them, and each run
    /// that can begin gets a runner of its own. Those that the runtime has not come to yet count: more of
    /// them would not help it.
    ///
    /// Where all runners have left, as the slots are taken by handlers that wait, nobody needs to look again
    /// until one begins; nor where nothing was taken and nothing is left to take.
    pub(super) fn look(self: &Arc<Self>) {
        let more = {
            let mut state = self.lock();
            let came_on = std::mem::take(&mut state.came_on);
            let relief = state.startable().saturating_sub(state.fresh);
            let more = if came_on { 0 } else { relief };
            state.engage(more);
            let begins = state.startable() > 0;
            let goes_on = state.active > 0 && (came_on || !state.line.is_empty());
            state.watched = begins || goes_on;
            more
        };
        self.spawn(more);
    }

    fn spawn(self: &Arc<Self>, count: usize) {
        for _ in 0..count {
            let runner = Runner {
                runners: Arc::clone(self),
                fresh: true,
                tells: false,
                left: false,
            };
            self.shared.runtime.spawn(Box::pin(runner.work()));
        }
    }
}

/// One of them, counted as active. However it ends, it is not active any more.
struct Runner {
    runners: Arc<Runners>,
    /// It was not polled yet.
    fresh: bool,
    /// The agent is to be woken at the end of the turn: runs have ended, or it waits for this one to begin.
    tells: bool,
    /// It found nothing to begin, and is not counted any more.
    left: bool,
}

impl Runner {
    async fn work(mut self) {
        self.settle_in();
        while poll_fn(|task| Poll::Ready(self.run_slice(task))).await {
            yield_once().await;
        }
    }

    fn settle_in(&mut self) {
        if std::mem::take(&mut self.fresh) {
            self.runners.lock().fresh -= 1;
            self.tells = true;
        }
    }

    /// Returns whether there may be more to begin.
    fn run_slice(&mut self, task: &mut TaskContext<'_>) -> bool {
        let shared = Arc::clone(&self.runners.shared);
        let begun = shared.runtime.now();
        // The heartbeat may not have come to them yet, above all after the process was stopped.
        let some_are_over = shared.leases.some_may_be_over(begun);
        let mut now = begun;
        let more = loop {
            let Some(run) = self.take() else {
                break false;
            };
            if some_are_over {
                shared.give_up_if_over(&run, now);
            }
            // Tokio keeps what was spawned last for this thread alone: if the next handler blocked it,
            // that one would stand still as long. So nothing more is begun in this turn.
            if run.takes_own_task() {
                self.apart(run.execute());
                break true;
            }
            match run.begin(now, task) {
                Begun::Ended(at) => now = at,
                Begun::Pending(watched) => {
                    self.apart(watched.watch());
                    break true;
                }
            }
            self.tells = true;
            if now.saturating_duration_since(begun) >= SLICE {
                break true;
            }
        };
        if std::mem::take(&mut self.tells) {
            // Not for each, so that their outcomes go together, and not before the next has begun: tokio
            // keeps the agent for this thread as well.
            shared.inbox.wake();
        }
        more
    }

    /// The next run. Without one the runner has left, in the same moment: what is put in the line or
    /// freed after it finds one runner less.
    fn take(&mut self) -> Option<Run> {
        let mut state = self.runners.lock();
        let run = state.take();
        if run.is_none() {
            state.active -= 1;
            self.left = true;
        }
        run
    }

    /// Runs it on a task of its own, which goes on as a runner, because its slot is free then.
    fn apart(&self, run: impl Future<Output = ()> + Send + 'static) {
        let runners = Arc::clone(&self.runners);
        let task = async move {
            // A destructor may panic, and the next begins all the same.
            let panicked = AssertUnwindSafe(run).catch_unwind().await.err();
            let has_woken = panicked.is_some();
            if let Some(panic) = panicked {
                tracing::error!(panic = panic_message(panic), "a run panicked at its end");
            }
            let watch = {
                let mut state = runners.lock();
                state.active += 1;
                state.watch()
            };
            let runner = Runner {
                runners,
                fresh: false,
                tells: true,
                left: false,
            };
            if watch {
                runner.runners.shared.inbox.wake();
            }
            if watch || has_woken {
                // Before the next begins: it may block the thread for which tokio keeps the agent.
                yield_once().await;
            }
            runner.work().await;
        };
        let runtime = &self.runners.shared.runtime;
        // A run that is dropped in a panic tells its end; the runner goes on.
        if caught(|| runtime.spawn(Box::pin(task))).is_none() {
            tracing::error!("the runtime panicked instead of spawning a handler");
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.settle_in();
        if !self.left {
            // The runtime ends and drops its tasks.
            self.runners.lock().active -= 1;
            self.runners.clear();
            self.runners.shared.inbox.wake();
        }
    }
}

#[cfg(test)]
mod tests;
