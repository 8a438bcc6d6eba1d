//! A storage that fails: replies lost before and after their effect, calls that hang, panic, or
//! are refused. The worker goes on, and nothing is lost or run twice without need.

mod support;

use std::time::Duration;

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
fn an_outcome_waits_while_the_storage_lets_nobody_in() {
    let rig = Rig::new();
    rig.enqueue_plain(4);
    plan(&rig.storage.settles, [Fault::NoEntry; 10]);
    let report = rig.run(done(&rig));
    assert_eq!((report.done, report.started, report.reclaimed), (4, 4, 0));
}

#[test]
fn an_expired_lease_that_can_never_be_taken_over_does_not_stop_the_worker() {
    let rig = Rig::new();
    rig.enqueue_plain(1);
    rig.steal(outbox_core::Source::Pending);
    rig.pass(SECOND * 61);
    rig.enqueue_plain(500);
    *rig.storage.cannot_reclaim.lock().expect("no panic") = true;
    let handle = rig.start(done(&rig));
    rig.pass(SECOND * 40);
    assert_eq!(handle.report().done, 500);
    let looks = rig.storage.log.count("claim Expired");
    assert!((10..=200).contains(&looks), "{looks} in 40 seconds");
    *rig.storage.cannot_reclaim.lock().expect("no panic") = false;
    rig.pass(SECOND * 10);
    assert_eq!(handle.report().done, 501);
}

#[test]
fn a_claim_that_is_too_large_to_be_answered_in_time_is_made_smaller() {
    let rig = Rig::new();
    rig.enqueue_plain(600);
    *rig.storage.too_many.lock().expect("no panic") = Some(60);
    let worker = done(&rig).concurrency(300).storage_timeout(SECOND);
    rig.start(worker);
    rig.pass(SECOND * 60);
    assert!(rig.memory().messages().is_empty());
    assert!(rig.memory().dead_letters().is_empty());
}

#[test]
fn nothing_more_is_claimed_while_outcomes_cannot_be_written() {
    let rig = Rig::new();
    rig.enqueue_plain(500);
    plan(&rig.storage.settles, [Fault::Before; 1_000]);
    let handle = rig.start(done(&rig).concurrency(10).prefetch(0));
    rig.pass(SECOND * 60);
    let started = handle.report().started;
    assert!(started <= 20, "{started} ran and none was written");
    rig.storage.settles.lock().expect("no panic").clear();
    rig.pass(SECOND * 10);
    assert_eq!(handle.report().done, 500);
    assert_eq!(handle.report().started, 500, "each ran once");
}

#[test]
fn a_message_that_somebody_keeps_locked_does_not_hold_up_the_others() {
    let rig = Rig::new();
    let ids = rig.enqueue_plain(10);
    *rig.storage.busy.lock().expect("no panic") = vec![ids[3]];
    let handle = rig.start(done(&rig));
    rig.pass(SECOND * 3 / 2);
    assert_eq!(handle.report().done, 9);
    assert_eq!(handle.health(), Health::Healthy);
    rig.pass(SECOND * 100);
    let settles = rig.storage.log.count("settle 1");
    assert!((15..=110).contains(&settles), "{settles} in 100 seconds");
    let message = &rig.memory().messages()[0];
    assert_eq!((message.id, message.lease_losses), (ids[3], 0), "renewed");
    rig.storage.busy.lock().expect("no panic").clear();
    rig.pass(SECOND * 6);
    assert_eq!(handle.report().done, 10);
    assert_eq!(handle.report().lease_lost, 0);
    assert_eq!(handle.report().started, 10, "it ran once");
}

#[test]
fn many_messages_that_somebody_keeps_locked_do_not_hold_up_the_others() {
    let rig = Rig::new();
    let ids = rig.enqueue_plain(30);
    *rig.storage.busy.lock().expect("no panic") = ids[..20].to_vec();
    let sim = rig.sim.clone();
    let worker = rig.worker(move |context| {
        use outbox_core::Runtime;
        let sim = sim.clone();
        async move {
            // The others end while the locked ones are asked for again and again.
            if support::number(&context) >= 20 {
                sim.sleep(SECOND * 10).await;
            }
            Outcome::Done
        }
    });
    let handle = rig.start(worker);
    rig.pass(SECOND * 20);
    assert_eq!(handle.report().done, 10, "those that nobody has locked");
    let late = rig.enqueue(draft(0));
    rig.pass(SECOND * 5);
    assert_eq!(rig.events.count(&format!("settled {late} Done")), 1);
    rig.storage.busy.lock().expect("no panic").clear();
    rig.pass(SECOND * 10);
    let report = handle.report();
    assert_eq!((report.done, report.started), (31, 31), "each ran once");
}

#[test]
fn a_batch_of_outcomes_that_is_too_large_is_written_in_parts() {
    let rig = Rig::new();
    rig.enqueue_plain(100);
    *rig.storage.too_heavy.lock().expect("no panic") = Some(9);
    let handle = rig.start(done(&rig));
    rig.pass(SECOND * 60);
    let report = handle.report();
    assert_eq!((report.done, report.started), (100, 100));
    assert!(rig.memory().messages().is_empty());
}

#[test]
fn an_outcome_that_can_never_be_written_does_not_stop_the_worker() {
    let rig = Rig::new();
    let ids = rig.enqueue_plain(100);
    *rig.storage.poison.lock().expect("no panic") = Some(ids[20]);
    let handle = rig.start(done(&rig).concurrency(10).prefetch(0));
    rig.pass(SECOND * 60);
    assert_eq!(handle.report().done, 99);
    let degraded = matches!(handle.health(), Health::Degraded { .. });
    assert!(degraded, "one outcome waits: {:?}", handle.health());
    let late = rig.enqueue(draft(0));
    rig.pass(SECOND * 2);
    assert_eq!(rig.events.count(&format!("settled {late} Done")), 1);
    assert_eq!(
        rig.events
            .all()
            .iter()
            .filter(|e| e.starts_with("recovered"))
            .count(),
        0
    );
    *rig.storage.poison.lock().expect("no panic") = None;
    rig.pass(SECOND * 20);
    let report = handle.report();
    assert_eq!((report.done, report.started), (101, 101));
    assert_eq!(handle.health(), Health::Healthy);
}

#[test]
fn hints_do_not_shorten_the_pauses_of_a_worker_that_waits_for_its_storage() {
    let rig = Rig::new();
    plan(&rig.storage.checks, [Fault::Before; 1_000]);
    rig.start(done(&rig));
    for number in 0..500 {
        rig.enqueue(draft(number));
        rig.pass(Duration::from_millis(1));
    }
    let checks = 1_000 - rig.storage.checks.lock().expect("no panic").len();
    assert!((2..=20).contains(&checks), "{checks} in half a second");
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
    // Asked again after 1, 2, 3, 4 and then 5 seconds: written after 35.
    plan(&rig.storage.settles, [Fault::Before; 9]);
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
