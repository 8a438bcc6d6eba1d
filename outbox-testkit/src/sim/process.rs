//! `SimProcess`: a part of the simulated runtime that can be stopped, continued and killed like a
//! process of an operating system, while the others go on.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use outbox_core::{BoxFuture, Runtime};

use super::SimRuntime;

/// A process on a simulated runtime: what is spawned here can be stopped or killed together. Its
/// time is the runtime's. Clones are the same process.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use std::time::Duration;
/// use outbox_core::Runtime;
/// use outbox_testkit::{SimProcess, SimRuntime};
///
/// let sim = SimRuntime::new(1);
/// let process = SimProcess::new(&sim);
/// let beats = Arc::new(AtomicUsize::new(0));
/// let (own, count) = (process.clone(), Arc::clone(&beats));
/// process.spawn(Box::pin(async move {
///     loop {
///         count.fetch_add(1, Ordering::Relaxed);
///         own.sleep(Duration::from_secs(1)).await;
///     }
/// }));
/// let after = |seconds: u64| {
///     sim.block_on(sim.sleep(Duration::from_millis(seconds * 1000 - 1)));
///     beats.swap(0, Ordering::Relaxed)
/// };
/// assert_eq!(after(10), 10);
/// process.stop();
/// assert_eq!(after(10), 0);
/// process.go_on();
/// assert_eq!(after(10), 10);
/// process.kill();
/// assert_eq!(after(10), 0);
/// ```
#[derive(Clone)]
pub struct SimProcess(Arc<Shared>);

struct Shared {
    sim: SimRuntime,
    /// Guards everything; never held while a future is polled or dropped, or a waker woken.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    life: Life,
    last_task: u64,
    /// How to reach each unfinished task.
    wakers: BTreeMap<u64, Waker>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Life {
    #[default]
    Running,
    Stopped,
    Killed,
}

impl SimProcess {
    /// A running process without tasks.
    #[must_use]
    pub fn new(sim: &SimRuntime) -> Self {
        Self(Arc::new(Shared {
            sim: sim.clone(),
            state: Mutex::default(),
        }))
    }

    /// Stops it: its tasks are polled no more, while time goes on. Calls to a storage that are on
    /// their way arrive all the same.
    pub fn stop(&self) {
        let mut state = self.state();
        if state.life == Life::Running {
            state.life = Life::Stopped;
        }
    }

    /// Continues it after a stop.
    pub fn go_on(&self) {
        self.enter(Life::Running);
    }

    /// Kills it: its tasks are dropped without being polled again, and whatever is spawned later
    /// never runs.
    pub fn kill(&self) {
        self.enter(Life::Killed);
    }

    /// Whether it is stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state().life == Life::Stopped
    }

    /// Whether it was killed.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.state().life == Life::Killed
    }

    fn enter(&self, life: Life) {
        let wakers: Vec<_> = {
            let mut state = self.state();
            if state.life != Life::Killed {
                state.life = life;
            }
            state.wakers.values().cloned().collect()
        };
        for waker in wakers {
            waker.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runtime for SimProcess {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        let number = {
            let mut state = self.state();
            state.last_task += 1;
            state.last_task
        };
        self.0.sim.spawn(Box::pin(Task {
            process: self.clone(),
            number,
            task: Some(task),
        }));
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.sim.sleep(duration)
    }

    /// Spawns: there is one thread.
    fn spawn_thread(&self, _name: &str, task: BoxFuture<'static, ()>) -> std::io::Result<()> {
        self.spawn(task);
        Ok(())
    }

    fn parallelism(&self) -> usize {
        self.0.sim.parallelism()
    }

    fn now(&self) -> Instant {
        self.0.sim.now()
    }

    /// Runs it as a task of its own, in one go.
    fn spawn_blocking(&self, task: Box<dyn FnOnce() + Send>) {
        self.spawn(Box::pin(async move { task() }));
    }
}

impl std::fmt::Debug for SimProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimProcess")
            .field("is_stopped", &self.is_stopped())
            .field("is_killed", &self.is_killed())
            .finish_non_exhaustive()
    }
}

struct Task {
    process: SimProcess,
    number: u64,
    task: Option<BoxFuture<'static, ()>>,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (life, former) = {
            let mut state = self.process.state();
            let waker = context.waker().clone();
            let former = state.wakers.insert(self.number, waker);
            (state.life, former)
        };
        drop(former);
        let poll = match (life, &mut self.task) {
            (Life::Running, Some(task)) => task.as_mut().poll(context),
            (Life::Stopped, Some(_)) => Poll::Pending,
            (Life::Killed, _) | (_, None) => Poll::Ready(()),
        };
        if poll.is_ready() {
            self.task = None;
        }
        poll
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let waker = self.process.state().wakers.remove(&self.number);
        drop(waker);
    }
}
