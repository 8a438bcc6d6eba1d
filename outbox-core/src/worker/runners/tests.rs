//! Runs, runners and slots, on a runtime that does one step when it is told to.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::future::BoxFuture;
use futures_util::task::noop_waker;

use super::*;
use crate::handler::{Context, DataMap, Definition, Handler, Requirements};
use crate::lease::{Held, LeaseToken};
use crate::message::MessageId;
use crate::outcome::{Outcome, Verdict};
use crate::runtime::Runtime;
use crate::storage::Claimed;
use crate::telemetry::Telemetry;
use crate::worker::execute::{Finished, Inbox};
use crate::worker::heartbeat::Leases;
use crate::worker::registry::{Registration, Registry};
use crate::worker::shutdown::Shutdown;

/// Keeps what is spawned until it is told to go on. Time passes by hand as well.
struct ByHand {
    tasks: Mutex<Vec<BoxFuture<'static, ()>>>,
    begun: Instant,
    seconds: AtomicU64,
}

impl ByHand {
    fn new() -> Self {
        Self {
            tasks: Mutex::default(),
            begun: Instant::now(),
            seconds: AtomicU64::new(0),
        }
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<BoxFuture<'static, ()>>> {
        self.tasks.lock().expect("nobody panics")
    }

    /// Polls this task once. One that panics is gone, as with every runtime.
    fn poll(&self, place: usize) {
        let mut future = self.tasks().swap_remove(place);
        let waker = noop_waker();
        let mut task = TaskContext::from_waker(&waker);
        let polled = caught(|| future.as_mut().poll(&mut task).is_pending());
        if polled == Some(true) {
            self.tasks().push(future);
        }
    }

    /// Polls each task once, and returns whether some are left.
    fn go_on(&self) -> bool {
        let count = self.tasks().len();
        (0..count).rev().for_each(|place| self.poll(place));
        !self.tasks().is_empty()
    }
}

impl Runtime for ByHand {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.tasks().push(task);
    }
    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
    fn now(&self) -> Instant {
        self.begun + Duration::from_secs(self.seconds.load(Ordering::Relaxed))
    }
    fn spawn_thread(&self, _: &str, task: BoxFuture<'static, ()>) -> std::io::Result<()> {
        self.spawn(task);
        Ok(())
    }
    fn parallelism(&self) -> usize {
        2
    }
}

/// How many run, the most there were, and how many began.
#[derive(Default)]
struct Count {
    now: AtomicUsize,
    most: AtomicUsize,
    begun: AtomicUsize,
}

/// Without a line of output for each.
fn panic_quietly() {
    std::panic::resume_unwind(Box::new("planned"));
}

/// Counts a handler until it is dropped.
struct Inside(Arc<Count>, i64);

impl Inside {
    fn new(count: Arc<Count>, id: i64) -> Self {
        let now = count.now.fetch_add(1, Ordering::Relaxed) + 1;
        count.most.fetch_max(now, Ordering::Relaxed);
        count.begun.fetch_add(1, Ordering::Relaxed);
        Self(count, id)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
        if self.1 % 7 == 6 && !std::thread::panicking() {
            panic_quietly();
        }
    }
}

struct Waits;

impl Handler for Waits {
    fn definition() -> Definition {
        Definition::new("waits", "q").kinds(vec!["k".into()])
    }
    fn requires(_: &mut Requirements) {}
    /// Each other one is ready at once; some panic, and some when they are dropped.
    fn call(context: Context) -> BoxFuture<'static, Outcome> {
        let count = context.data().find::<Count>().expect("it is given");
        let id = context.message().id.0;
        let inside = Inside::new(count, id);
        let work = async move {
            for _ in 0..(id + 1) % 2 * (id % 5) {
                yield_once().await;
            }
            if id % 11 == 10 {
                panic_quietly();
            }
            Outcome::Done
        };
        Box::pin(Work(Box::pin(work), inside))
    }
}

/// What it holds is dropped with it, and not by its last poll.
struct Work<F>(
    Pin<Box<F>>,
    #[expect(dead_code, reason = "it counts")] Inside,
);

impl<F: Future<Output = Outcome>> Future for Work<F> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Outcome> {
        self.0.as_mut().poll(task)
    }
}

struct Rig {
    runtime: Arc<ByHand>,
    runners: Arc<Runners>,
    registration: Arc<Registration>,
    count: Arc<Count>,
}

const LEASE_TTL: Duration = Duration::from_secs(30);

/// Some runs in line for these slots, and no agent.
fn rig(slots: usize, runs: i64) -> Rig {
    let runtime = Arc::new(ByHand::new());
    let shared = Arc::new(Shared {
        runtime: runtime.clone(),
        shutdown: Arc::<Shutdown>::default(),
        telemetry: Arc::new(Telemetry::new(Vec::new())),
        leases: Arc::<Leases>::default(),
        slots: Slots::new(slots),
        inbox: Inbox::default(),
    });
    let mut registry = Registry::default();
    registry.add::<Waits>();
    let registration = Arc::clone(registry.find("q", "k").expect("it is registered"));
    let rig = Rig {
        runtime,
        runners: Arc::new(Runners::new(shared)),
        registration,
        count: Arc::default(),
    };
    (1..=runs).for_each(|id| rig.put(id));
    rig
}

impl Rig {
    fn shared(&self) -> &Arc<Shared> {
        &self.runners.shared
    }

    fn put(&self, id: i64) {
        let now = self.runtime.now();
        let held = Held {
            id: MessageId(id),
            token: LeaseToken::random(),
        };
        let message = Claimed::new(held, Arc::from("q"), Arc::from("k"), Vec::new());
        let leases = &self.shared().leases;
        let (mut leases, _) = leases.add(std::slice::from_ref(&message), |_| LEASE_TTL, now, now);
        let lease = leases.pop().expect("one for each message");
        let mut data = DataMap::default();
        data.insert(Arc::clone(&self.count));
        let context = Context::new(message, lease, Arc::new(data), self.runtime.clone());
        let (registration, shared) = (Arc::clone(&self.registration), Arc::clone(self.shared()));
        let run = Run::new(context, registration, shared, now);
        self.runners.put(run);
    }

    /// The next runs have tasks of their own.
    fn give_own_tasks(&self) {
        self.registration.note_poll(Duration::from_secs(1));
    }

    /// Free slots, runners, and those of them that were not polled yet.
    fn counts(&self) -> (usize, usize, usize) {
        let state = self.runners.lock();
        (state.free, state.active, state.fresh)
    }
}

#[test]
fn who_ends_a_run_begins_the_next_and_no_more_run_than_there_are_slots() {
    for (slots, own_tasks) in [(1, false), (3, false), (1, true), (3, true)] {
        let rig = rig(slots, 60);
        if own_tasks {
            rig.give_own_tasks();
        }
        rig.runners.staff();
        while rig.runtime.go_on() {}
        let ended = rig.shared().inbox.take();
        assert_eq!(ended.len(), 60, "{slots} slots, {own_tasks}");
        assert!(rig.count.most.load(Ordering::Relaxed) <= slots);
        assert_eq!(rig.counts(), (slots, 0, 0));
    }
}

#[test]
fn what_is_dropped_frees_its_slot_and_is_released() {
    for polls in 0..4 {
        let rig = rig(2, 5);
        rig.runners.staff();
        for _ in 0..polls {
            rig.runtime.go_on();
        }
        rig.runtime.tasks().clear();
        rig.runners.clear();
        assert_eq!(rig.shared().inbox.take().len(), 5);
        assert_eq!(rig.counts(), (2, 0, 0), "after {polls} polls");
    }
}

#[test]
fn what_a_panic_drops_before_it_began_is_released() {
    let rig = rig(1, 1);
    rig.give_own_tasks();
    rig.runners.staff();
    rig.runtime.poll(0);
    let own_task = rig.runtime.tasks().swap_remove(0);
    caught(|| {
        let _dropped = own_task;
        panic_quietly();
    });
    assert_eq!(rig.count.begun.load(Ordering::Relaxed), 0);
    let ended = rig.shared().inbox.take();
    let [end] = &ended[..] else {
        panic!("one run, and {} ends", ended.len());
    };
    assert!(matches!(end.verdict, Some(Verdict::Release)));
    assert!(!end.panicked);
}

#[test]
fn a_task_of_its_own_that_begins_after_the_lease_calls_no_handler() {
    let rig = rig(1, 2);
    rig.give_own_tasks();
    rig.runners.staff();
    rig.runtime.go_on();
    let seconds = LEASE_TTL.as_secs();
    // The process was stopped, and the heartbeat has not come to it yet.
    rig.runtime.seconds.store(seconds, Ordering::Relaxed);
    while rig.runtime.go_on() {}
    assert_eq!(rig.count.begun.load(Ordering::Relaxed), 0);
    let ended = rig.shared().inbox.take();
    assert!(ended.iter().all(|end| end.verdict.is_none()));
    assert_eq!((ended.len(), rig.counts()), (2, (1, 0, 0)));
}

#[test]
fn nothing_begins_once_the_worker_drains() {
    for own_tasks in [false, true] {
        let rig = rig(1, 2);
        if own_tasks {
            rig.give_own_tasks();
        }
        rig.runners.staff();
        if own_tasks {
            rig.runtime.go_on();
        }
        // The agent has not come to it yet.
        rig.shared().shutdown.drain();
        while rig.runtime.go_on() {}
        assert_eq!(rig.count.begun.load(Ordering::Relaxed), 0);
        let ended = rig.shared().inbox.take();
        let released = |end: &Finished| matches!(end.verdict, Some(Verdict::Release));
        assert!(ended.iter().all(released));
        assert_eq!((ended.len(), rig.counts()), (2, (1, 0, 0)));
    }
}

#[test]
fn the_runners_are_looked_after_only_while_one_may_be_blocked() {
    // Both wait for a while, in one slot.
    let rig = rig(1, 0);
    [2, 4].into_iter().for_each(|id| rig.put(id));
    let watched = || rig.runners.is_watched();
    assert!(!watched(), "nobody has begun");
    rig.runners.staff();
    assert!(watched(), "a runner is started");
    rig.runtime.poll(0);
    rig.runners.look();
    assert!(watched(), "the runner is not known to have left");
    rig.runtime.poll(1);
    rig.runners.look();
    assert!(!watched(), "the slot is taken, and the runner has left");
    while !watched() {
        rig.runtime.poll(0);
    }
    // Before the handler that may block.
    assert_eq!(rig.shared().inbox.take().len(), 1);
    assert_eq!(rig.count.begun.load(Ordering::Relaxed), 1);
    while rig.runtime.go_on() {}
    assert_eq!(rig.shared().inbox.take().len(), 1);
}

#[test]
fn nothing_begins_in_the_turn_in_which_a_panic_woke_the_agent() {
    // The first waits once, and panics when it is dropped.
    let rig = rig(1, 0);
    [6, 7].into_iter().for_each(|id| rig.put(id));
    rig.runners.staff();
    let mut ended = 0;
    while ended == 0 {
        rig.runtime.poll(0);
        ended = rig.shared().inbox.take().len();
    }
    assert_eq!((ended, rig.count.begun.load(Ordering::Relaxed)), (1, 1));
    while rig.runtime.go_on() {}
    assert_eq!(rig.shared().inbox.take().len(), 1);
}

/// An agent, a runtime that drops tasks and handlers that panic, in any order.
#[test]
fn every_run_ends_once_and_leaves_its_slot_in_any_order_of_events() {
    for seed in 0..2_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let slots = random.usize(1..5);
        let drops = random.bool();
        let runs = random.i64(1..60);
        let rig = rig(slots, 0);
        let (mut put, mut ended) = (0, BTreeSet::new());
        let mut read = |rig: &Rig| {
            for end in rig.shared().inbox.take() {
                assert!(ended.insert(end.message.id.0), "seed {seed}: ended twice");
            }
            ended.len()
        };
        for step in 0..100_000 {
            assert!(step < 99_999, "seed {seed}: no end");
            let tasks = rig.runtime.tasks().len();
            match random.u32(..100) {
                0..10 if put < runs => {
                    put += 1;
                    rig.put(put);
                    rig.runners.staff();
                }
                10..12 => rig.runners.look(),
                12 => rig.give_own_tasks(),
                13 if drops && tasks > 0 => {
                    let task = rig.runtime.tasks().swap_remove(random.usize(..tasks));
                    caught(|| drop(task));
                }
                _ if tasks > 0 => rig.runtime.poll(random.usize(..tasks)),
                _ => {}
            }
            let (free, _, fresh) = rig.counts();
            let inside = rig.count.now.load(Ordering::Relaxed);
            assert!(inside + free <= slots, "seed {seed}");
            assert!(fresh <= rig.runtime.tasks().len(), "seed {seed}");
            if put == runs && rig.runtime.tasks().is_empty() {
                assert!(
                    drops || rig.runners.waiting() == 0,
                    "seed {seed}: forgotten"
                );
                if rig.runners.waiting() == 0 {
                    break;
                }
                rig.runners.staff();
            }
        }
        let all = usize::try_from(runs).expect("it is not negative");
        assert_eq!(
            (read(&rig), rig.counts()),
            (all, (slots, 0, 0)),
            "seed {seed}"
        );
    }
}
