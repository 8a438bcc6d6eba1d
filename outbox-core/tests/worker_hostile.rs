//! Handlers, errors and runtimes that misbehave in ways a type cannot forbid: the worker goes on,
//! or ends with an error that says why.

mod support;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outbox_core::{
    BoxFuture, BoxStream, ErrorKind, MAX_DELAY, MAX_ERROR_BYTES, Outcome, Runtime, Worker,
};
use support::{Fault, Log, Rig, SECOND, Scripted, draft, number, plan};

/// An error that panics when it is read, or dropped, or never ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hostile {
    PanicsWhenRead,
    PanicsWhenDropped,
    PanicsAlways,
    CausedByItself,
    CausedByItselfWithoutText,
    Endless,
}

impl fmt::Display for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PanicsWhenRead | Self::PanicsAlways => panic!("no text"),
            Self::CausedByItselfWithoutText => Ok(()),
            Self::PanicsWhenDropped | Self::CausedByItself => f.write_str("hostile"),
            Self::Endless => loop {
                f.write_str("and on ")?;
            },
        }
    }
}

impl std::error::Error for Hostile {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::CausedByItself | Self::CausedByItselfWithoutText => Some(self),
            Self::PanicsWhenRead | Self::PanicsWhenDropped | Self::PanicsAlways | Self::Endless => {
                None
            }
        }
    }
}

/// Holds a hostile error, which is `Copy` and so cannot have a destructor itself.
#[derive(Debug)]
struct Holder(Hostile);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Holder {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let panics = [Hostile::PanicsWhenDropped, Hostile::PanicsAlways];
        assert!(!panics.contains(&self.0), "no end");
    }
}

#[test]
fn a_hostile_error_is_a_failed_attempt_and_the_worker_goes_on() {
    for (hostile, text) in [
        (Hostile::PanicsWhenRead, "panicked when it was read"),
        (Hostile::PanicsWhenDropped, "hostile"),
        (Hostile::PanicsAlways, "panicked when it was read"),
        (Hostile::CausedByItself, "hostile: hostile: hostile"),
        (Hostile::CausedByItselfWithoutText, ": : : "),
        (Hostile::Endless, "and on and on"),
    ] {
        let rig = Rig::new();
        let id = rig.enqueue(draft(0).max_attempts(1));
        rig.enqueue(draft(1));
        let report = rig.run(rig.worker(move |context| async move {
            match number(&context) {
                0 => Outcome::Retry {
                    after: None,
                    error: Box::new(Holder(hostile)),
                },
                _ => Outcome::Done,
            }
        }));
        assert_eq!((report.done, report.dead), (1, 1), "{hostile:?}");
        let dead = rig.memory().dead_letters();
        assert_eq!(dead[0].message.id, id);
        let error = dead[0].message.last_error.as_deref().unwrap_or_default();
        assert!(error.contains(text), "{hostile:?}: {error}");
        assert!(error.len() <= MAX_ERROR_BYTES, "{hostile:?}");
    }
}

#[test]
fn every_outcome_survives_an_error_that_panics() {
    let rig = Rig::new();
    for number in 0..4 {
        rig.enqueue(draft(number).max_attempts(1));
    }
    let report = rig.run(rig.worker(|context| async move {
        let error = || Box::new(Holder(Hostile::PanicsAlways));
        match number(&context) {
            0 => Outcome::Discard { error: error() },
            1 => Outcome::Dead { error: error() },
            2 => Outcome::Undecodable { error: error() },
            _ => Outcome::Done,
        }
    }));
    assert_eq!((report.discarded, report.dead, report.done), (1, 2, 1));
}

#[test]
fn an_endless_delay_is_cut_to_the_longest_one() {
    let rig = Rig::new();
    for number in 0..3 {
        rig.enqueue(draft(number));
    }
    let worker = rig.worker(|context| async move {
        match number(&context) {
            0 => Outcome::Snooze(Duration::MAX),
            1 => Outcome::Retry {
                after: Some(Duration::MAX),
                error: "later".into(),
            },
            _ => Outcome::Done,
        }
    });
    let report = rig.run_for(worker, SECOND);
    assert_eq!((report.snoozed, report.retried, report.done), (1, 1, 1));
    for written in ["Snoozed", "Retried"] {
        let told = format!("{written}({MAX_DELAY:?})");
        assert!(rig.events.all().iter().any(|event| event.ends_with(&told)));
    }
    for message in rig.memory().messages() {
        let due_in = message.due.duration_since(rig.memory().now());
        let due_in = due_in.expect("it is in the future");
        assert!(due_in > MAX_DELAY - SECOND * 2 && due_in <= MAX_DELAY);
    }
}

#[test]
fn a_hint_stream_that_panics_or_ends_is_replaced_by_the_poll() {
    fn panicking() -> BoxStream<'static, ()> {
        Box::pin(futures_util::stream::poll_fn(|_| panic!("planned")))
    }
    fn ending() -> BoxStream<'static, ()> {
        Box::pin(futures_util::stream::empty())
    }
    let panics: fn() -> BoxStream<'static, ()> = panicking;
    for (name, hints) in [("panics", panics), ("ends", ending)] {
        let mut rig = Rig::new();
        rig.storage.hints = Some(hints);
        let worker = rig.worker(|_| async { Outcome::Done });
        let handle = rig.start(worker);
        rig.pass(SECOND);
        rig.enqueue(draft(0));
        rig.pass(SECOND * 3);
        assert_eq!(handle.report().done, 1, "{name}");
    }
}

/// What happens to the tasks a worker spawns, by number: 0 is its agent, 1 the housekeeping, 2 the runner
/// that begins the first handler, 3 that handler, as it is not ready at once.
type Spawn = fn(&outbox_testkit::SimRuntime, usize, BoxFuture<'static, ()>);

/// The simulated runtime with another `spawn`.
struct Spawning(outbox_testkit::SimRuntime, AtomicUsize, Spawn);

impl Runtime for Spawning {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        (self.2)(&self.0, self.1.fetch_add(1, Ordering::Relaxed), task);
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.sleep(duration)
    }
    fn spawn_thread(&self, name: &str, task: BoxFuture<'static, ()>) -> std::io::Result<()> {
        self.0.spawn_thread(name, task)
    }
    fn parallelism(&self) -> usize {
        1
    }
    fn now(&self) -> std::time::Instant {
        self.0.now()
    }
}

/// A worker on such a runtime, whose handlers add a line when they are called and when they are
/// dropped, and never end.
fn worker_with(rig: &Rig, spawn: Spawn, log: &Log) -> Worker {
    struct Note(Log);
    impl Drop for Note {
        fn drop(&mut self) {
            self.0.add("dropped");
        }
    }
    let runtime = Spawning(rig.sim.clone(), AtomicUsize::new(0), spawn);
    let (log, events) = (log.clone(), rig.events.clone());
    Worker::new(Arc::new(rig.storage.clone()), Arc::new(runtime))
        .data(support::Script(Box::new(move |_| {
            log.add("called");
            let note = Note(log.clone());
            Box::pin(async move {
                let _note = note;
                std::future::pending().await
            })
        })))
        .register::<Scripted>()
        .observe(move |event| {
            if let outbox_core::Event::Settled { written, .. } = event {
                events.add(format!("{written:?}"));
            }
        })
}

#[test]
fn a_worker_that_panics_stops_its_handlers_and_ends_with_an_error_that_says_so() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    let log = Log::default();
    let spawn: Spawn = |sim, number, task| {
        assert!(number != 4, "planned");
        sim.spawn(task);
    };
    let worker = worker_with(&rig, spawn, &log);
    let (ended, errors) = (Log::default(), rig.sim.clone());
    let told = ended.clone();
    errors.spawn(Box::pin(async move {
        let error = worker.run().await.expect_err("it panicked");
        assert_eq!(error.kind(), ErrorKind::Runtime);
        told.add(error.to_string());
    }));
    rig.pass(SECOND);
    assert_eq!(log.all(), ["called"]);
    rig.enqueue(draft(1));
    rig.pass(SECOND);
    let text = ended.all().concat();
    assert!(text.contains("the worker panicked: planned"), "{text}");
    assert_eq!(log.all(), ["called", "dropped"]);
}

#[test]
fn a_handler_whose_task_the_runtime_drops_gives_its_message_back_uncharged() {
    let runner: Spawn = |sim, number, task| match number {
        2 => drop(task),
        _ => sim.spawn(task),
    };
    let handler: Spawn = |sim, number, task| match number {
        3 => drop(task),
        _ => sim.spawn(task),
    };
    for (spawn, begun) in [(runner, 0), (handler, 1)] {
        let rig = Rig::new();
        rig.enqueue(draft(0));
        let log = Log::default();
        rig.start(worker_with(&rig, spawn, &log));
        rig.pass(SECOND * 2);
        assert_eq!(rig.events.all(), ["Released"]);
        assert_eq!(rig.memory().messages()[0].attempts, 1, "of the second run");
        let called = log.all().iter().filter(|line| **line == "called").count();
        assert_eq!(called, begun + 1);
    }
}

#[test]
fn a_runtime_that_panics_instead_of_spawning_a_handler_charges_no_other_message() {
    let rig = Rig::new();
    for number in 0..3 {
        rig.enqueue(draft(number));
    }
    let log = Log::default();
    let spawn: Spawn = |sim, number, task| {
        assert!(number != 4, "planned");
        sim.spawn(task);
    };
    rig.start(worker_with(&rig, spawn, &log));
    rig.pass(SECOND / 2);
    assert_eq!(log.all(), ["called", "called", "dropped", "called"]);
    let events = rig.events.all();
    assert!(
        matches!(&events[..], [one] if one.starts_with("Retried")),
        "{events:?}"
    );
}

#[test]
fn a_runtime_that_is_slow_to_begin_handlers_delays_the_next_claim_but_for_a_moment() {
    let late: Spawn = |sim, number, task| {
        let sleep = sim.sleep(SECOND * u32::from(number > 1));
        sim.spawn(Box::pin(async move {
            sleep.await;
            task.await;
        }));
    };
    let rig = Rig::new();
    rig.enqueue(draft(0));
    rig.start(worker_with(&rig, late, &Log::default()));
    let claims = |after: u32| {
        rig.pass(Duration::from_millis(1) * after);
        rig.storage.log.count("claim Pending")
    };
    assert_eq!(claims(9), 1);
    assert_eq!(claims(2), 2);
}

#[test]
fn a_runtime_that_polls_nothing_for_long_is_not_given_more_and_more_tasks() {
    let late: Spawn = |sim, number, task| {
        assert!(number < 2 + 3, "too many");
        let sleep = sim.sleep(SECOND * 10 * u32::from(number > 1));
        sim.spawn(Box::pin(async move {
            sleep.await;
            task.await;
        }));
    };
    let rig = Rig::new();
    for number in 0..3 {
        rig.enqueue(draft(number));
    }
    let log = Log::default();
    rig.start(worker_with(&rig, late, &log));
    rig.pass(SECOND * 9);
    assert!(log.all().is_empty(), "{:?}", log.all());
}

#[test]
fn a_handler_whose_task_begins_too_late_is_not_called() {
    fn spawn_late(
        sim: &outbox_testkit::SimRuntime,
        number: usize,
        seconds: u32,
        task: BoxFuture<'static, ()>,
    ) {
        let sleep = sim.sleep(SECOND * seconds * u32::from(number > 1));
        sim.spawn(Box::pin(async move {
            sleep.await;
            task.await;
        }));
    }
    // The lease is over by then.
    let late: Spawn = |sim, number, task| spawn_late(sim, number, 40, task);
    let rig = Rig::new();
    rig.enqueue(draft(0));
    plan(&rig.storage.renews, [Fault::Before; 100]);
    // Or the runner would begin a second delivery.
    plan(&rig.storage.claims, [Fault::None; 2]);
    plan(&rig.storage.claims, [Fault::Before; 1_000]);
    let log = Log::default();
    rig.start(worker_with(&rig, late, &log));
    rig.pass(SECOND * 41);
    assert!(log.all().is_empty(), "{:?}", log.all());

    // The worker cancels its handlers by then, and waits a second for their end.
    let late: Spawn = |sim, number, task| spawn_late(sim, number, 2, task);
    let rig = Rig::new();
    rig.enqueue(draft(0));
    let worker = worker_with(&rig, late, &log).grace(Duration::ZERO);
    rig.run_for(worker, SECOND + SECOND / 2);
    assert!(log.all().is_empty(), "{:?}", log.all());
}
