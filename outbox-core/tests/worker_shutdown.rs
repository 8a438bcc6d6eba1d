//! How a worker ends: what it finishes, what it gives back, and how long it takes.

mod support;

use std::time::Duration;

use outbox_core::{Health, Outcome, Runtime, Worker};
use support::{Fault, Log, Rig, SECOND, draft, plan};

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
