//! Runners: a few tasks that give each started run its first poll. Most handlers of small work are
//! ready at once and need no task of their own; one that is not, gets one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use concurrent_queue::ConcurrentQueue;
use futures_util::future::poll_fn;

use super::execute::{Begun, Run, Surroundings};
use super::verdict::caught;
use crate::runtime::yield_once;

/// How long a runner goes on before it lets other tasks of the runtime run.
const SLICE: Duration = Duration::from_micros(500);

/// The line of started runs, and how many serve it.
pub(super) struct Runners {
    surroundings: Arc<Surroundings>,
    line: ConcurrentQueue<Run>,
    active: AtomicUsize,
    most: usize,
    /// How many runs were taken from the line.
    taken: AtomicUsize,
    /// How many runners were started that the runtime has not polled yet.
    fresh: AtomicUsize,
}

impl Runners {
    pub(super) fn new(surroundings: Arc<Surroundings>) -> Self {
        let most = surroundings.runtime.parallelism().max(1);
        Self {
            surroundings,
            line: ConcurrentQueue::unbounded(),
            active: AtomicUsize::new(0),
            most,
            taken: AtomicUsize::new(0),
            fresh: AtomicUsize::new(0),
        }
    }

    /// Puts a run in the line. It begins once there is a runner: see [`staff`](Self::staff).
    pub(super) fn put(&self, run: Run) {
        // Nobody closes the line, and it has no bound. What cannot be put is dropped, and a run that
        // is dropped tells its end.
        drop(self.line.push(run));
    }

    /// How many runs were taken from the line so far.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Starts runners for what is in the line, as many as can run at the same moment.
    pub(super) fn staff(self: &Arc<Self>) {
        while self.active.load(Ordering::SeqCst) < self.most.min(self.line.len()) {
            self.start();
        }
    }

    /// Starts runners until there is one for each run in the line, because those that have begun do not
    /// come to it. Those that the runtime has not come to yet count: more of them would not help it.
    /// Returns how many runs are in the line.
    pub(super) fn relieve(self: &Arc<Self>) -> usize {
        let waiting = self.line.len();
        for _ in self.fresh.load(Ordering::Relaxed)..waiting {
            self.start();
        }
        waiting
    }

    fn start(self: &Arc<Self>) {
        self.active.fetch_add(1, Ordering::SeqCst);
        self.fresh.fetch_add(1, Ordering::Relaxed);
        let runner = Runner {
            fresh: Some(Fresh(Arc::clone(self))),
            runners: Arc::clone(self),
            done: false,
        };
        self.surroundings.runtime.spawn(Box::pin(runner.work()));
    }
}

/// A runner was not polled yet, until this is dropped.
struct Fresh(Arc<Runners>);

impl Drop for Fresh {
    fn drop(&mut self) {
        self.0.fresh.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One of them. However it ends, it is not active any more.
struct Runner {
    fresh: Option<Fresh>,
    runners: Arc<Runners>,
    /// It found the line empty.
    done: bool,
}

impl Runner {
    async fn work(mut self) {
        self.fresh = None;
        while poll_fn(|task| Poll::Ready(self.run_slice(task))).await {
            yield_once().await;
        }
        self.done = true;
    }

    /// Returns whether there may be more in the line.
    fn run_slice(&self, task: &mut TaskContext<'_>) -> bool {
        let Surroundings { runtime, inbox, .. } = &*self.runners.surroundings;
        let begun = runtime.now();
        let mut now = begun;
        let mut ended = false;
        let more = loop {
            let Ok(run) = self.runners.line.pop() else {
                break false;
            };
            self.runners.taken.fetch_add(1, Ordering::Relaxed);
            match run.begin(now, task) {
                Begun::Ended(at) => now = at,
                Begun::Pending(watched) => {
                    // Dropped in a panic, it tells its end; the runner goes on.
                    let spawned = caught(|| runtime.spawn(Box::pin(watched.watch())));
                    if spawned.is_none() {
                        tracing::error!("the runtime panicked instead of spawning a handler");
                    }
                    // Tokio keeps what was spawned last for this thread alone: if the next handler
                    // blocked it, that one would stand still as long.
                    break true;
                }
            }
            ended = true;
            if now.saturating_duration_since(begun) >= SLICE {
                break true;
            }
        };
        if ended {
            // Not for each, so that their outcomes go together.
            inbox.wake();
        }
        more
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if !self.done {
            // The runtime ends and drops its tasks. Each run that is dropped tells its end.
            while let Ok(run) = self.runners.line.pop() {
                drop(run);
            }
        }
        self.runners.active.fetch_sub(1, Ordering::SeqCst);
        if self.done {
            // What was put in after the last look, by somebody who saw this runner still active.
            self.runners.staff();
        }
    }
}
