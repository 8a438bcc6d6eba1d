//! A storage that fails: replies lost before and after their effect, calls that hang, panic, or
//! are refused. The worker goes on, and nothing is lost or run twice without need.

mod support;

use outbox_core::{ErrorKind, Health, Outcome, Worker};
use support::{Fault, Log, Rig, SECOND, draft, plan};

fn done(rig: &Rig) -> Worker {
    rig.worker(|_| async { Outcome::Done })
}

/// The first claim looks for expired leases; the faults are for the one after it.
const SECOND_CLAIM: Fault = Fault::None;

#[test]
fn a_claim_that_failed_is_asked_for_again_with_its_token() {
    let rig = Rig::new();
    rig.enqueue_plain(3);
    plan(
        &rig.storage.claims,
        [SECOND_CLAIM, Fault::Before, Fault::Before],
    );
    let report = rig.run(done(&rig));
    assert_eq!((report.done, report.storage_errors), (3, 2));
    let tokens = rig.storage.tokens.lock().expect("no panic").clone();
    let (token, resumed) = tokens[1];
    assert!(!resumed);
    assert_eq!(tokens[2..4], [(token, true), (token, true)]);
}

#[test]
fn messages_of_a_claim_whose_reply_was_lost_run_at_once_and_once() {
    let rig = Rig::new();
    let ids = rig.enqueue_plain(3);
    plan(&rig.storage.claims, [SECOND_CLAIM, Fault::After]);
    rig.start(done(&rig));
    rig.pass(SECOND);
    for id in ids {
        assert_eq!(rig.events.count(&format!("started {id}")), 1);
        assert_eq!(rig.events.count(&format!("settled {id} Done")), 1);
    }
    assert!(
        rig.memory().messages().is_empty(),
        "within a second, not after a lease of 30"
    );
}

#[test]
fn a_settle_whose_reply_was_lost_is_asked_again_and_not_called_a_lost_lease() {
    let rig = Rig::new();
    let id = rig.enqueue(draft(0));
    plan(&rig.storage.settles, [Fault::After]);
    let report = rig.run(done(&rig));
    assert_eq!(
        (report.unresolved, report.lease_lost, report.started),
        (1, 0, 1)
    );
    assert_eq!(rig.events.count(&format!("unresolved {id}")), 1);
    assert!(rig.memory().messages().is_empty());
}

#[test]
fn a_settle_that_failed_is_repeated_and_its_message_runs_once() {
    let rig = Rig::new();
    rig.enqueue_plain(4);
    plan(&rig.storage.settles, [Fault::Before; 5]);
    let report = rig.run(done(&rig));
    assert_eq!((report.done, report.started, report.reclaimed), (4, 4, 0));
}

#[test]
fn an_outage_degrades_the_health_and_ends_with_a_recovery() {
    let rig = Rig::new();
    plan(&rig.storage.claims, [Fault::Before; 30]);
    let handle = rig.start(done(&rig));
    rig.pass(SECOND * 20);
    let Health::Degraded { failures, error } = handle.health() else {
        panic!("the storage is down: {:?}", handle.health());
    };
    assert!(
        failures > 5 && error.contains("OBX0007"),
        "{failures} {error}"
    );
    let calls = rig.storage.log.all().len();
    assert!(calls < 40, "{calls} calls in 20 seconds: the pauses grow");
    rig.pass(SECOND * 200);
    assert_eq!(handle.health(), Health::Healthy);
    assert_eq!(rig.events.count("recovered 30"), 1);
    let id = rig.enqueue(draft(0));
    rig.pass(SECOND * 2);
    assert_eq!(rig.events.count(&format!("settled {id} Done")), 1);
}

#[test]
fn a_call_that_never_answers_is_given_up_and_repeated() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    plan(&rig.storage.claims, [SECOND_CLAIM, Fault::Hang]);
    plan(&rig.storage.settles, [Fault::Hang]);
    let report = rig.run(done(&rig).storage_timeout(SECOND * 3));
    assert_eq!(
        (report.done, report.started, report.storage_errors),
        (1, 1, 2)
    );
}

#[test]
fn a_storage_that_panics_is_a_storage_that_failed() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    plan(&rig.storage.claims, [Fault::Panic]);
    plan(&rig.storage.settles, [Fault::Before, Fault::Panic]);
    plan(&rig.storage.renews, [Fault::Panic]);
    let sim = rig.sim.clone();
    let worker = rig.worker(move |_| {
        use outbox_core::Runtime;
        let sim = sim.clone();
        async move {
            sim.sleep(SECOND * 40).await;
            Outcome::Done
        }
    });
    rig.start(worker);
    rig.pass(SECOND * 200);
    // The refusal of the only settlement gives it up; the message comes back and is done.
    assert!(rig.memory().messages().is_empty());
    assert_eq!(rig.events.count("settled 1 Done"), 1);
}

#[test]
fn one_outcome_that_is_refused_for_good_does_not_hold_up_the_others() {
    let rig = Rig::new();
    let ids = rig.enqueue_plain(10);
    *rig.storage.refuse.lock().expect("no panic") = Some(ids[4]);
    rig.start(done(&rig));
    rig.pass(SECOND * 20);
    let settled = rig
        .events
        .all()
        .iter()
        .filter(|event| event.starts_with("settled"))
        .count();
    assert_eq!(settled, 9);
    assert_eq!(
        rig.memory().messages().len(),
        1,
        "the tenth waits for the end of its lease"
    );
    *rig.storage.refuse.lock().expect("no panic") = None;
    rig.pass(SECOND * 20);
    assert!(rig.memory().messages().is_empty());
}

#[test]
fn a_worker_waits_for_a_storage_that_is_down_at_its_start() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    plan(
        &rig.storage.checks,
        [Fault::Before, Fault::Hang, Fault::Before],
    );
    let report = rig.run(done(&rig));
    assert_eq!((report.done, report.storage_errors), (1, 3));
}

#[test]
fn a_storage_that_cannot_be_used_ends_the_worker_with_its_error() {
    let rig = Rig::new();
    plan(&rig.storage.checks, [Fault::Refused]);
    let error = rig
        .sim
        .block_on(done(&rig).run())
        .expect_err("it cannot run");
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(rig.storage.log.all().is_empty(), "it claimed nothing");
}

#[test]
fn a_worker_that_waits_for_its_storage_can_be_shut_down() {
    let rig = Rig::new();
    plan(&rig.storage.checks, [Fault::Before; 1_000]);
    let report = rig.run_for(done(&rig), SECOND * 30);
    assert_eq!(report.claimed, 0);
    assert!(rig.sim.elapsed() < SECOND * 31);
}

#[test]
fn a_renewal_that_failed_is_repeated_in_time() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    plan(
        &rig.storage.renews,
        [Fault::Before, Fault::Hang, Fault::After],
    );
    let sim = rig.sim.clone();
    let worker = rig.worker(move |_| {
        use outbox_core::Runtime;
        let sim = sim.clone();
        async move {
            sim.sleep(SECOND * 100).await;
            Outcome::Done
        }
    });
    let report = rig.run(worker);
    assert_eq!((report.done, report.lease_lost), (1, 0));
}

#[test]
fn events_about_a_message_come_after_the_write_and_not_before() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    plan(&rig.storage.settles, [Fault::Before, Fault::Before]);
    let order = Log::default();
    let (log, memory) = (order.clone(), rig.memory().clone());
    let worker = done(&rig).observe(move |event| {
        if let outbox_core::Event::Settled { .. } = event {
            log.add(format!("{} left", memory.messages().len()));
        }
    });
    rig.run(worker);
    assert_eq!(order.all(), ["0 left"]);
}

#[test]
fn a_renewal_that_crosses_the_settle_of_its_message_is_no_lost_lease() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    // Written at 9 s and answered at 11 s; the heartbeat asks at 10 s and finds no message.
    plan(&rig.storage.settles, [Fault::Late]);
    let sim = rig.sim.clone();
    let worker = rig.worker(move |_| {
        use outbox_core::Runtime;
        let sim = sim.clone();
        async move {
            sim.sleep(SECOND * 9).await;
            Outcome::Done
        }
    });
    let report = rig.run(worker);
    assert_eq!(report.renewals, 1);
    assert_eq!((report.done, report.lease_lost), (1, 0));
}

#[test]
fn an_outcome_is_still_written_after_an_outage_longer_than_the_lease() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    plan(&rig.storage.settles, [Fault::Before; 30]);
    plan(&rig.storage.claims, [Fault::None, Fault::None]);
    plan(&rig.storage.claims, [Fault::Before; 30]);
    plan(&rig.storage.renews, [Fault::Before; 100]);
    let recovered = Log::default();
    let (log, sim) = (recovered.clone(), rig.sim.clone());
    let worker = done(&rig).observe(move |event| {
        if let outbox_core::Event::StorageRecovered { .. } = event {
            log.add(format!("{:?}", sim.elapsed() > SECOND * 30));
        }
    });
    let report = rig.run(worker);
    assert_eq!(recovered.all(), ["true"], "the lease was over by then");
    assert_eq!((report.started, report.done, report.lease_lost), (1, 1, 0));
}
