//! How a worker ends: what it finishes, what it gives back, and how long it takes.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outbox_core::{BoxFuture, Context, Health, Outcome, Runtime, Worker};
use outbox_testkit::SimRuntime;
use support::{Fault, Log, Rig, SECOND, Script, Scripted, draft, number, plan};

fn slow(rig: &Rig, time: Duration) -> Worker {
    let sim = rig.sim.clone();
    rig.worker(move |_| {
        let sim = sim.clone();
        async move {
            sim.sleep(time).await;
            Outcome::Done
        }
    })
}

#[test]
fn running_handlers_finish_and_nothing_is_claimed_any_more() {
    let rig = Rig::new();
    rig.enqueue_plain(20);
    let report = rig.run_for(
        slow(&rig, SECOND * 10).concurrency(4).prefetch(0),
        SECOND * 5,
    );
    assert_eq!(rig.sim.elapsed(), SECOND * 10);
    assert_eq!((report.done, report.started, report.lease_lost), (4, 4, 0));
    let left = rig.memory().messages();
    assert_eq!(left.len(), 16);
    assert!(
        left.iter()
            .all(|message| message.lease.is_none() && message.attempts == 0)
    );
}

#[test]
fn leases_are_renewed_while_handlers_finish() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    let worker = slow(&rig, SECOND * 300).grace(SECOND * 400);
    let report = rig.run_for(worker, SECOND);
    assert_eq!((report.done, report.lease_lost), (1, 0));
}

#[test]
fn what_has_not_started_is_given_back_at_once_and_its_attempt_refunded() {
    let rig = Rig::new();
    rig.enqueue_plain(400);
    let sim = rig.sim.clone();
    let worker = rig.worker(move |context| {
        let sim = sim.clone();
        async move {
            if support::number(&context) >= 300 {
                sim.sleep(SECOND * 20).await;
            }
            Outcome::Done
        }
    });
    let handle = rig.start(worker.concurrency(10));
    rig.pass(SECOND);
    let leased = rig
        .memory()
        .messages()
        .iter()
        .filter(|message| message.lease.is_some())
        .count();
    assert!(leased > 10, "some are prefetched: {leased}");
    handle.shutdown();
    rig.pass(Duration::from_millis(1));
    let messages = rig.memory().messages();
    let leased = messages
        .iter()
        .filter(|message| message.lease.is_some())
        .count();
    assert_eq!(leased, 10, "only the running ones are still held");
    assert!(
        messages
            .iter()
            .all(|message| message.attempts == u16::from(message.lease.is_some()))
    );
    assert_eq!(handle.health(), Health::Draining);
    rig.pass(SECOND * 20);
    assert_eq!(handle.health(), Health::Stopped);
    assert!(handle.report().released > 0);
}

#[test]
fn after_the_grace_period_handlers_are_dropped_and_their_messages_given_back() {
    let rig = Rig::new();
    rig.enqueue(draft(0).max_attempts(1));
    let report = rig.run_for(slow(&rig, SECOND * 3600).grace(SECOND * 7), SECOND * 5);
    assert_eq!(rig.sim.elapsed(), SECOND * 12);
    assert_eq!(report.released, 1);
    assert_eq!(rig.events.count("drain timed out 1"), 1);
    let message = &rig.memory().messages()[0];
    assert_eq!(
        (message.attempts, message.lease),
        (0, None),
        "available at once"
    );
}

#[test]
fn a_dropped_run_gives_everything_back_in_the_background() {
    let rig = Rig::new();
    rig.enqueue_plain(5);
    let mut run = Box::pin(slow(&rig, SECOND * 3600).run());
    rig.sim.block_on(async {
        let waited = futures_util::future::select(&mut run, rig.sim.sleep(SECOND)).await;
        drop(waited);
    });
    drop(run);
    rig.pass(Duration::from_millis(1));
    let left = rig.memory().messages();
    assert_eq!(left.len(), 5);
    assert!(
        left.iter()
            .all(|message| message.lease.is_none() && message.attempts == 0)
    );
}

#[test]
fn a_claim_in_flight_when_the_shutdown_begins_is_given_back() {
    let rig = Rig::new();
    rig.enqueue_plain(3);
    plan(&rig.storage.claims, [Fault::None, Fault::Late]);
    let handle = rig.start(slow(&rig, SECOND));
    rig.pass(SECOND);
    assert_eq!(
        rig.storage.log.count("claim Pending"),
        1,
        "its answer is on the way"
    );
    handle.shutdown();
    rig.pass(SECOND * 10);
    assert_eq!(handle.health(), Health::Stopped);
    let report = handle.report();
    assert_eq!((report.claimed, report.started, report.released), (3, 0, 3));
    let left = rig.memory().messages();
    assert!(left.iter().all(|message| message.lease.is_none()));
}

#[test]
fn outcomes_are_written_before_the_worker_returns_even_through_failures() {
    let rig = Rig::new();
    rig.enqueue_plain(8);
    plan(&rig.storage.settles, [Fault::Before; 4]);
    let report = rig.run_for(slow(&rig, SECOND * 2), SECOND);
    assert_eq!(report.done, 8);
    assert!(rig.memory().messages().is_empty());
}

#[test]
fn a_cancelled_message_is_given_back_behind_a_settle_that_takes_longer_than_handlers_may() {
    let rig = Rig::new();
    rig.enqueue_plain(2);
    // Answered two seconds after it was sent, at 3 s; cancelled handlers are waited for until 2.5 s.
    plan(&rig.storage.settles, [Fault::Late]);
    let sim = rig.sim.clone();
    let worker = rig.worker(move |context| {
        let sim = sim.clone();
        async move {
            sim.sleep(SECOND).await;
            if support::number(&context) == 1 {
                std::future::pending().await
            }
            Outcome::Done
        }
    });
    let report = rig.run_for(worker.grace(Duration::ZERO), SECOND * 3 / 2);
    assert_eq!((report.done, report.released), (1, 1));
    assert_eq!(rig.sim.elapsed(), SECOND * 3);
    let left = rig.memory().messages();
    assert_eq!((left.len(), left[0].lease, left[0].attempts), (1, None, 0));
}

#[test]
fn a_storage_that_stays_down_does_not_keep_a_worker_from_ending() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    plan(&rig.storage.settles, [Fault::Before; 10_000]);
    let worker = slow(&rig, SECOND * 2)
        .grace(SECOND * 5)
        .storage_timeout(SECOND * 3);
    let report = rig.run_for(worker, SECOND);
    assert_eq!(report.done, 0);
    let elapsed = rig.sim.elapsed();
    // Grace, then the time to cancel, then one storage timeout for the last writes.
    assert!(elapsed <= SECOND * 12, "{elapsed:?}");
    assert_eq!(
        rig.memory().messages().len(),
        1,
        "it comes back when its lease ends"
    );
}

#[test]
fn a_second_worker_takes_over_at_once_after_a_shutdown() {
    let rig = Rig::new();
    rig.enqueue_plain(6);
    rig.run_for(slow(&rig, SECOND * 3600).grace(Duration::ZERO), SECOND);
    let started = Log::default();
    let (log, sim) = (started.clone(), rig.sim.clone());
    let report = rig.run(rig.worker(move |context| {
        log.add(format!(
            "attempt {} at {:?}",
            context.message().attempt,
            sim.elapsed()
        ));
        async { Outcome::Done }
    }));
    assert_eq!((report.done, report.reclaimed), (6, 0));
    assert_eq!(started.all(), ["attempt 1 at 1s"; 6]);
}

#[test]
fn a_stopped_worker_makes_no_more_calls() {
    let rig = Rig::new();
    rig.run_for(slow(&rig, SECOND), SECOND * 3);
    let calls = rig.storage.log.all().len();
    rig.pass(SECOND * 100);
    assert_eq!(rig.storage.log.all().len(), calls);
}

#[test]
fn a_shutdown_after_a_claim_whose_reply_was_lost_gives_its_messages_back() {
    let rig = Rig::new();
    rig.enqueue_plain(3);
    plan(&rig.storage.claims, [Fault::None, Fault::After]);
    let report = rig.run_for(slow(&rig, SECOND), Duration::from_millis(1));
    assert_eq!(report.started, 0);
    let messages = rig.memory().messages();
    assert_eq!(messages.len(), 3);
    for message in messages {
        assert_eq!((message.lease, message.attempts), (None, 0));
    }
    assert!(rig.sim.elapsed() < SECOND, "{:?}", rig.sim.elapsed());
}

#[test]
fn a_shutdown_asks_only_once_for_a_claim_whose_reply_was_lost() {
    let rig = Rig::new();
    rig.enqueue_plain(3);
    plan(&rig.storage.claims, [Fault::None, Fault::After]);
    plan(&rig.storage.claims, [Fault::Before; 100]);
    rig.run_for(slow(&rig, SECOND), Duration::from_millis(1));
    assert_eq!(rig.storage.log.count("claim Pending"), 2);
}

#[test]
fn a_worker_that_drains_does_not_spin_while_a_call_is_on_its_way() {
    let rig = Rig::new();
    let ids = rig.enqueue_plain(2);
    *rig.storage.busy.lock().expect("no panic") = vec![ids[0]];
    // The first outcome waits from 1 s to 2 s; the second is asked at 1.5 s and answered at 3.5 s.
    plan(&rig.storage.settles, [Fault::None, Fault::Late]);
    let sim = rig.sim.clone();
    let script = move |context: Context| {
        let sim = sim.clone();
        async move {
            if number(&context) == 1 {
                sim.sleep(SECOND * 3 / 2).await;
            }
            Outcome::Done
        }
    };
    let runtime = NoSpin(rig.sim.clone(), AtomicUsize::new(0));
    let worker = Worker::new(Arc::new(rig.storage.clone()), Arc::new(runtime))
        .data(Script(Box::new(move |context| Box::pin(script(context)))))
        .register::<Scripted>();
    let report = rig.run_for(worker.grace(SECOND * 5), SECOND / 10);
    assert_eq!(report.done, 1);
}

/// The simulated runtime, which notices a loop that sleeps for no time.
struct NoSpin(SimRuntime, AtomicUsize);

impl Runtime for NoSpin {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.spawn(task);
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if duration.is_zero() {
            let sleeps = self.1.fetch_add(1, Ordering::Relaxed);
            assert!(sleeps < 100, "it sleeps again and again for no time");
        }
        self.0.sleep(duration)
    }
    fn spawn_thread(&self, name: &str, task: BoxFuture<'static, ()>) -> std::io::Result<()> {
        self.0.spawn_thread(name, task)
    }
    fn now(&self) -> std::time::Instant {
        self.0.now()
    }
    fn spawn_blocking(&self, task: Box<dyn FnOnce() + Send>) {
        self.0.spawn_blocking(task);
    }
}
