//! `SimRuntime`: a runtime on one thread whose time jumps from timer to timer and whose scheduling
//! follows a seed, so that a failing interleaving can be run again.

mod process;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use fastrand::Rng;
use outbox_core::{BoxFuture, MAX_DELAY, MemoryStorage, Runtime};

pub use process::SimProcess;

/// A runtime with a virtual clock and a scheduler that follows a seed. Clones are the same
/// runtime.
///
/// Everything runs on the thread that calls [`block_on`](Self::block_on). Of the futures that are
/// ready, the seed picks the one to poll next; when none is, time jumps to the next timer. The
/// seed also decides what `fastrand` answers on that thread, so that jitter repeats.
///
/// ```
/// use std::time::Duration;
/// use outbox_core::Runtime;
/// use outbox_testkit::SimRuntime;
///
/// let sim = SimRuntime::new(7);
/// let start = sim.now();
/// sim.block_on(sim.sleep(Duration::from_secs(3600)));
/// assert_eq!(sim.now() - start, Duration::from_secs(3600));
/// ```
#[derive(Clone)]
pub struct SimRuntime(Arc<Shared>);

type Hook = Arc<dyn Fn(Duration) + Send + Sync>;

struct Shared {
    seed: u64,
    base: Instant,
    /// Guards everything; never held while a future is polled, a waker woken or a hook called.
    state: Mutex<State>,
}

struct State {
    elapsed: Duration,
    rng: Rng,
    last_task: u64,
    tasks: BTreeMap<u64, (BoxFuture<'static, ()>, Waker)>,
    /// Sorted, so that the seed's choice does not depend on the order in which a hash map, say,
    /// woke them.
    ready: Vec<u64>,
    last_timer: u64,
    timers: BTreeMap<(Duration, u64), Waker>,
    hooks: Vec<Hook>,
    polls_at_this_instant: u64,
}

/// The number of the future given to `block_on`.
const MAIN: u64 = 0;

/// So many polls without time moving mean that futures wake each other for ever.
const MAX_POLLS_AT_ONE_INSTANT: u64 = 10_000_000;

thread_local! {
    static CURRENT: RefCell<Option<SimRuntime>> = const { RefCell::new(None) };
}

impl SimRuntime {
    /// A runtime at time zero.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Shared {
            seed,
            base: Instant::now(),
            state: Mutex::new(State {
                elapsed: Duration::ZERO,
                rng: Rng::with_seed(seed),
                last_task: MAIN,
                tasks: BTreeMap::new(),
                ready: Vec::new(),
                last_timer: 0,
                timers: BTreeMap::new(),
                hooks: Vec::new(),
                polls_at_this_instant: 0,
            }),
        }))
    }

    /// The runtime whose `block_on` runs on this thread, if any.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// Virtual time since the runtime was made.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.state().elapsed
    }

    /// Calls `hook` with each step of the virtual time, before the timers of that instant fire.
    pub fn on_advance(&self, hook: impl Fn(Duration) + Send + Sync + 'static) {
        self.0.state().hooks.push(Arc::new(hook));
    }

    /// Moves the storage's clock along with this runtime's time from now on.
    pub fn drive(&self, storage: &MemoryStorage) {
        let storage = storage.clone();
        self.on_advance(move |step| storage.advance(step));
    }

    /// Drops everything that was spawned and has not ended, as if the process had been killed.
    pub fn kill_spawned(&self) {
        let tasks = std::mem::take(&mut self.0.state().tasks);
        // Outside the lock: a dropped future may wake others or cancel its timers.
        drop(tasks);
    }

    /// Runs `future` to its end, together with all that was spawned. What is unfinished then
    /// stays, and goes on with the next call.
    ///
    /// # Panics
    /// When nothing is ready and no timer runs (a deadlock), or when futures keep waking each
    /// other without time moving. The message names the seed.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        fastrand::seed(self.0.seed);
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        let mut future = pin!(future);
        let main = self.0.waker(MAIN);
        self.0.make_ready(MAIN);
        loop {
            match self.0.pick() {
                Some(MAIN) => {
                    if let Poll::Ready(output) =
                        future.as_mut().poll(&mut Context::from_waker(&main))
                    {
                        return output;
                    }
                }
                Some(task) => self.0.poll_task(task),
                None => self.0.advance_to_next_timer(),
            }
        }
    }
}

impl Runtime for SimRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        let id = {
            let mut state = self.0.state();
            state.last_task += 1;
            let id = state.last_task;
            state.tasks.insert(id, (task, self.0.waker(id)));
            id
        };
        self.0.make_ready(id);
    }

    /// Counted from the call. A sleep longer than [`MAX_DELAY`] never ends and is no timer.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut state = self.0.state();
        state.last_timer += 1;
        Box::pin(Sleep {
            shared: Arc::clone(&self.0),
            timer: (state.elapsed.saturating_add(duration), state.last_timer),
        })
    }

    /// Spawns: there is one thread.
    fn spawn_thread(&self, _name: &str, task: BoxFuture<'static, ()>) -> std::io::Result<()> {
        self.spawn(task);
        Ok(())
    }

    /// Two, wherever it runs: a seed means the same on every machine.
    fn parallelism(&self) -> usize {
        2
    }

    fn now(&self) -> Instant {
        self.0.base + self.0.state().elapsed
    }

    /// Runs it as a task of its own, in one go.
    fn spawn_blocking(&self, task: Box<dyn FnOnce() + Send>) {
        self.spawn(Box::pin(async move { task() }));
    }
}

impl std::fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimRuntime")
            .field("seed", &self.0.seed)
            .field("elapsed", &self.elapsed())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waker(self: &Arc<Self>, task: u64) -> Waker {
        Waker::from(Arc::new(TaskWaker {
            task,
            shared: Arc::downgrade(self),
        }))
    }

    fn make_ready(&self, task: u64) {
        let mut state = self.state();
        // A second wake before the poll changes nothing.
        if let Err(place) = state.ready.binary_search(&task) {
            state.ready.insert(place, task);
        }
    }

    fn pick(&self) -> Option<u64> {
        let mut state = self.state();
        if state.ready.is_empty() {
            return None;
        }
        state.polls_at_this_instant += 1;
        if state.polls_at_this_instant > MAX_POLLS_AT_ONE_INSTANT {
            drop(state);
            panic!(
                "futures keep waking each other and time stands still (seed {})",
                self.seed
            );
        }
        let ready = state.ready.len();
        let place = state.rng.usize(..ready);
        Some(state.ready.remove(place))
    }

    fn poll_task(&self, id: u64) {
        let found = self.state().tasks.remove(&id);
        let Some((mut task, waker)) = found else {
            return;
        };
        let poll = task.as_mut().poll(&mut Context::from_waker(&waker));
        if poll.is_pending() {
            self.state().tasks.insert(id, (task, waker));
        }
    }

    fn advance_to_next_timer(&self) {
        let (step, hooks) = {
            let mut state = self.state();
            let Some((&(deadline, _), _)) = state.timers.first_key_value() else {
                drop(state);
                panic!(
                    "deadlock: nothing is ready and no timer runs (seed {})",
                    self.seed
                );
            };
            let step = deadline.saturating_sub(state.elapsed);
            state.elapsed += step;
            state.polls_at_this_instant = 0;
            (step, state.hooks.clone())
        };
        for hook in hooks {
            hook(step);
        }
        let due = {
            let mut state = self.state();
            let after_now = (state.elapsed, u64::MAX);
            let later = state.timers.split_off(&after_now);
            std::mem::replace(&mut state.timers, later)
        };
        for waker in due.into_values() {
            waker.wake();
        }
    }
}

struct TaskWaker {
    task: u64,
    /// Weak, because timers inside the runtime hold wakers.
    shared: Weak<Shared>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if let Some(shared) = self.shared.upgrade() {
            shared.make_ready(self.task);
        }
    }
}

struct Sleep {
    shared: Arc<Shared>,
    timer: (Duration, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shared.state();
        if state.elapsed >= self.timer.0 {
            return Poll::Ready(());
        }
        if self.timer.0 - state.elapsed <= MAX_DELAY {
            let former = state.timers.insert(self.timer, context.waker().clone());
            // Dropping a waker may drop futures with timers of their own: not under the lock.
            drop(state);
            drop(former);
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let waker = self.shared.state().timers.remove(&self.timer);
        drop(waker);
    }
}

/// Puts the runtime of an outer `block_on` back, also when the inner one panics.
struct Restore(Option<SimRuntime>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}
