//! Leases while a worker holds them: renewed, lost, taken over, counted.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outbox_core::{
    Context, DeadReason, Definition, Draft, Handler, Outcome, Requirements, Runtime, Source, Worker,
};
use outbox_testkit::{Fault as Strike, FaultStorage, Operation};
use support::{Fault, Log, Rig, SECOND, Script, Scripted, draft, number, plan};

/// A worker whose handlers take this long.
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

/// Handles queue `short` by the script, with the shortest lease.
struct Short;

impl Handler for Short {
    fn definition() -> Definition {
        Definition::new("short", "short")
            .kinds(vec!["k".into()])
            .lease_ttl(SECOND)
    }
    fn requires(_: &mut Requirements) {}
    fn call(context: Context) -> outbox_core::BoxFuture<'static, Outcome> {
        Scripted::call(context)
    }
}

#[test]
fn a_handler_that_takes_ten_leases_keeps_its_message() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    let report = rig.run(slow(&rig, SECOND * 300));
    assert_eq!(
        (report.done, report.lease_lost, report.reclaimed),
        (1, 0, 0)
    );
    // One renewal a tick of ten seconds, of 30 seconds each.
    assert!((25..=31).contains(&report.renewals), "{report:?}");
}

#[test]
fn one_call_renews_everything_that_is_held() {
    let rig = Rig::new();
    rig.enqueue_plain(40);
    rig.run_for(slow(&rig, SECOND * 15).prefetch(0), SECOND * 12);
    let renewals: Vec<_> = rig
        .storage
        .log
        .all()
        .into_iter()
        .filter(|call| call.starts_with("renew"))
        .collect();
    assert_eq!(renewals, ["renew 40"]);
}

#[test]
fn a_lease_that_cannot_be_renewed_is_given_up_before_another_may_take_it() {
    let rig = Rig::new();
    let id = rig.enqueue(draft(0));
    plan(&rig.storage.renews, [Fault::Before; 40]);
    let ended = Log::default();
    let (log, sim) = (ended.clone(), rig.sim.clone());
    let worker = rig.worker(move |context| {
        struct Note(Log, outbox_testkit::SimRuntime);
        impl Drop for Note {
            fn drop(&mut self) {
                self.0.add(format!("dropped at {:?}", self.1.elapsed()));
            }
        }
        let note = Note(log.clone(), sim.clone());
        async move {
            let _note = note;
            context.lease().lost().await;
            // Never reached: the worker drops the handler when the lease is lost.
            std::future::pending().await
        }
    });
    rig.start(worker);
    rig.pass(SECOND * 29);
    assert!(ended.all().is_empty());
    rig.pass(SECOND + Duration::from_millis(1));
    assert_eq!(ended.all(), ["dropped at 30s"]);
    assert_eq!(rig.events.count(&format!("lost {id} Held")), 1);
    let settled = rig
        .storage
        .log
        .all()
        .iter()
        .any(|call| call.starts_with("settle"));
    assert!(!settled, "a former holder writes nothing");
}

#[test]
fn a_renewal_that_hangs_does_not_hold_up_the_watchdog() {
    let rig = Rig::new();
    let id = rig.enqueue(draft(0));
    plan(&rig.storage.renews, [Fault::Hang; 40]);
    // Nobody takes the message when its lease ends.
    plan(&rig.storage.claims, [Fault::None; 3]);
    plan(&rig.storage.claims, [Fault::Before; 1_000]);
    rig.start(slow(&rig, SECOND * 300));
    rig.pass(SECOND * 30 - Duration::from_millis(1));
    assert_eq!(rig.events.count(&format!("lost {id} Held")), 0);
    rig.pass(Duration::from_millis(2));
    assert_eq!(rig.events.count(&format!("lost {id} Held")), 1);
}

#[test]
fn a_lease_that_ends_before_the_next_beat_is_given_up_when_it_ends() {
    let rig = Rig::new();
    let storage = FaultStorage::new(Arc::new(rig.memory().clone()), Arc::new(rig.sim.clone()));
    // The claim of second 3 is answered in second 31, between the beats of second 30 and 40.
    let late = Strike::SlowReply(SECOND * 28);
    storage.plan(Operation::Claim, [Strike::None, Strike::None, late]);
    // Nobody takes the message when its lease ends.
    storage.plan(Operation::Claim, [Strike::Before; 1_000]);
    let lost = Log::default();
    let (log, sim) = (lost.clone(), rig.sim.clone());
    let handler = move |context: Context| {
        let (log, sim) = (log.clone(), sim.clone());
        async move {
            log.add(format!("runs at {:?}", sim.elapsed()));
            let lease = context.lease().clone();
            let watch = sim.clone();
            sim.spawn(Box::pin(async move {
                lease.lost().await;
                log.add(format!("lost at {:?}", watch.elapsed()));
            }));
            std::future::pending().await
        }
    };
    let worker = Worker::new(Arc::new(storage), Arc::new(rig.sim.clone()))
        .data(Script(Box::new(move |context| Box::pin(handler(context)))))
        .register::<Scripted>()
        .poll_interval(SECOND * 3_600)
        .storage_timeout(SECOND * 60);
    rig.start(worker);
    rig.pass(SECOND * 3);
    rig.enqueue(draft(0));
    rig.pass(SECOND * 40);
    assert_eq!(lost.all(), ["runs at 31s", "lost at 33s"]);
}

#[test]
fn a_message_whose_lease_was_over_when_the_claim_answered_does_not_start() {
    let rig = Rig::new();
    let id = rig.enqueue(Draft::json("short", "k", &0));
    plan(&rig.storage.claims, [Fault::None, Fault::Late]);
    let worker = slow(&rig, Duration::from_millis(100)).register::<Short>();
    rig.start(worker);
    rig.pass(SECOND * 20);
    let events = rig.events.all();
    let about: Vec<_> = events
        .iter()
        .filter(|event| !event.starts_with("claimed"))
        .collect();
    let expected = [
        format!("lost {id} Held"),
        format!("started {id}"),
        format!("settled {id} Done"),
    ];
    assert_eq!(about, expected.iter().collect::<Vec<_>>());
}

#[test]
fn a_worker_that_reclaims_its_own_message_runs_it_once_and_settles_it_once() {
    let rig = Rig::new();
    let id = rig.enqueue(draft(0));
    let ends = Log::default();
    let (log, sim) = (ends.clone(), rig.sim.clone());
    let worker = rig.worker(move |context| {
        struct Note(Log, outbox_testkit::SimRuntime, u32);
        impl Drop for Note {
            fn drop(&mut self) {
                self.0.add(format!("fence {}", self.2));
            }
        }
        let note = Note(log.clone(), sim.clone(), context.lease().fence());
        async move {
            note.1.sleep(SECOND * 9).await;
            Outcome::Done
        }
    });
    let handle = rig.start(worker);
    rig.pass(SECOND * 5);
    rig.memory().expire_leases();
    // The look for expired leases comes before the first end.
    rig.pass(SECOND * 3);
    assert_eq!(handle.report().reclaimed, 1);
    assert_eq!(ends.all(), ["fence 1"], "the former run was stopped");
    assert_eq!(rig.events.count(&format!("lost {id} Held")), 1);
    rig.pass(SECOND * 20);
    let report = handle.report();
    assert_eq!((report.done, report.lease_lost), (1, 1));
    assert_eq!((report.unresolved, report.fenced_writes), (0, 0));
    assert!(rig.memory().messages().is_empty());
}

#[test]
fn outcomes_under_a_former_and_under_the_present_lease_are_told_apart() {
    let rig = Rig::new();
    let id = rig.enqueue(draft(0));
    // The poll at one second answers at three that a lease has ended. Meanwhile the handler ended
    // too: its outcome goes with the claim that takes the message anew, and cannot be written
    // until the second run has ended as well.
    plan(&rig.storage.claims, [Fault::None; 3]);
    plan(&rig.storage.claims, [Fault::Late]);
    plan(&rig.storage.settles, [Fault::Before; 12]);
    let handle = rig.start(slow(&rig, SECOND * 2));
    rig.pass(SECOND / 2);
    rig.memory().expire_leases();
    rig.pass(SECOND * 60);
    let report = handle.report();
    assert_eq!((report.started, report.reclaimed), (2, 1), "{report:?}");
    assert_eq!(
        (report.done, report.unresolved, report.lease_lost),
        (1, 1, 0)
    );
    assert_eq!(rig.events.count(&format!("settled {id} Done")), 1);
    assert!(rig.memory().messages().is_empty());
}

#[test]
fn an_outcome_that_comes_after_the_loss_is_not_written() {
    let rig = Rig::new();
    let id = rig.enqueue(draft(0));
    plan(&rig.storage.renews, [Fault::Before; 40]);
    let worker = rig.worker(|context| async move {
        // Like a blocking handler, which cannot be dropped: it ends by itself, and too late.
        context.lease().lost().await;
        Outcome::Done
    });
    rig.start(worker);
    rig.pass(SECOND * 30 + Duration::from_millis(1));
    assert_eq!(rig.events.count(&format!("lost {id} Held")), 1);
    let settled = rig
        .storage
        .log
        .all()
        .iter()
        .any(|call| call.starts_with("settle"));
    assert!(!settled, "a former holder writes nothing");
}

#[test]
fn a_lease_taken_by_another_stops_the_handler_and_nothing_is_written() {
    let rig = Rig::new();
    let id = rig.enqueue(draft(0));
    rig.start(slow(&rig, SECOND * 300));
    rig.pass(SECOND * 5);
    rig.memory().expire_leases();
    assert_eq!(rig.steal(Source::Expired).len(), 1);
    rig.pass(SECOND * 10);
    assert_eq!(rig.events.count(&format!("lost {id} Held")), 1);
    let message = &rig.memory().messages()[0];
    assert!(message.lease.is_some(), "the other still holds it");
    assert_eq!((message.attempts, message.lease_losses), (1, 1));
    assert_eq!(rig.events.count(&format!("settled {id} Done")), 0);
}

#[test]
fn a_settle_of_a_lost_lease_is_refused_and_told_and_its_batch_is_written() {
    let rig = Rig::new();
    let ids = rig.enqueue_plain(5);
    let worker = slow(&rig, SECOND * 5).prepare().expect("configured");
    let handle = worker.handle();
    rig.sim.spawn(Box::pin(async move {
        worker
            .run_until(std::future::pending())
            .await
            .expect("it runs");
    }));
    rig.pass(SECOND * 4);
    rig.memory().expire_leases();
    let stolen = rig.steal(Source::Expired);
    assert_eq!(stolen.len(), 5);
    // The other gives four of them back as it ends; the fifth stays with it.
    for held in &stolen[1..] {
        let settlement = outbox_core::Settlement::new(*held, outbox_core::Verdict::Done);
        let storage = rig.memory().clone();
        let written = rig
            .sim
            .block_on(async move { outbox_core::Storage::settle(&storage, &[settlement]).await });
        assert_eq!(written.expect("memory does not fail").written.len(), 1);
    }
    let fresh = rig.enqueue(draft(9));
    rig.pass(SECOND * 7);
    for id in ids {
        assert_eq!(rig.events.count(&format!("lost {id} Settle")), 1);
        assert_eq!(rig.events.count(&format!("settled {id} Done")), 0);
    }
    assert_eq!(rig.events.count(&format!("settled {fresh} Done")), 1);
    let report = handle.report();
    assert_eq!(
        (report.done, report.lease_lost, report.fenced_writes),
        (1, 5, 5)
    );
    assert_eq!(rig.memory().messages().len(), 1);
}

#[test]
fn after_a_crash_messages_run_again_when_their_lease_ends_and_no_attempt_is_charged() {
    let rig = Rig::new();
    rig.enqueue_plain(3);
    rig.run_and_kill(slow(&rig, SECOND * 300), SECOND * 5);
    assert_eq!(rig.sim.elapsed(), SECOND * 5);
    let attempts = Log::default();
    let (log, sim) = (attempts.clone(), rig.sim.clone());
    let report = rig.run(rig.worker(move |context| {
        log.add(format!(
            "attempt {} at {:?}",
            context.message().attempt,
            sim.elapsed()
        ));
        async { Outcome::Done }
    }));
    assert_eq!((report.done, report.reclaimed), (3, 3));
    assert_eq!(
        attempts.all(),
        ["attempt 1 at 30s"; 3],
        "exactly when the leases end"
    );
}

#[test]
fn the_fence_grows_with_every_delivery() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    rig.run_and_kill(slow(&rig, SECOND * 300), SECOND);
    let fences = Log::default();
    let log = fences.clone();
    rig.run(rig.worker(move |context| {
        let fence = context.lease().fence();
        log.add(fence.to_string());
        async move {
            if fence < 4 {
                Outcome::Snooze(SECOND)
            } else {
                Outcome::Done
            }
        }
    }));
    assert_eq!(
        fences.all(),
        ["2", "3", "4"],
        "snoozes refund attempts and not deliveries"
    );
}

#[test]
fn a_message_that_kills_its_process_dies_alone() {
    let rig = Rig::new();
    let ids = rig.enqueue_plain(60);
    let poison = 41;
    let deaths = Arc::new(AtomicUsize::new(0));
    // Each round is a process: it ends when the poison runs, with everything it holds.
    for _ in 0..10 {
        let hit = Log::default();
        let (log, sim) = (hit.clone(), rig.sim.clone());
        let worker = rig.worker(move |context| {
            let killer = number(&context) == poison;
            let (log, sim) = (log.clone(), sim.clone());
            async move {
                if killer {
                    log.add("killed");
                    std::future::pending::<()>().await;
                }
                sim.sleep(Duration::from_millis(5)).await;
                Outcome::Done
            }
        });
        rig.start(worker.concurrency(20));
        for _ in 0..2_000 {
            rig.pass(Duration::from_millis(1));
            if hit.count("killed") > 0 {
                deaths.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        rig.sim.kill_spawned();
        rig.memory().expire_leases();
    }
    rig.run(rig.worker(|_| async { Outcome::Done }));
    assert_eq!(deaths.load(Ordering::Relaxed), 3);
    let dead = rig.memory().dead_letters();
    assert_eq!(dead.len(), 1, "all others were done");
    assert_eq!(
        (dead[0].message.id, dead[0].reason),
        (ids[poison], DeadReason::Crashed)
    );
    assert!(rig.memory().messages().is_empty());
}

#[test]
fn a_lease_that_ends_on_the_last_attempt_is_a_visible_dead_letter() {
    let rig = Rig::new();
    let id = rig.enqueue(draft(0).max_attempts(1));
    rig.run_and_kill(slow(&rig, SECOND * 300), SECOND);
    let report = rig.run(rig.worker(|_| async { Outcome::Done }));
    assert_eq!((report.dead, report.started), (1, 0));
    assert_eq!(rig.events.count(&format!("dead {id} lease_expired")), 1);
    assert_eq!(
        rig.memory().dead_letters()[0].reason,
        DeadReason::LeaseExpired
    );
}

#[test]
fn a_handler_that_allows_more_attempts_than_the_message_keeps_it_after_a_crash() {
    struct Patient;
    impl Handler for Patient {
        fn definition() -> Definition {
            Scripted::definition().max_attempts(3)
        }
        fn requires(_: &mut Requirements) {}
        fn call(context: Context) -> outbox_core::BoxFuture<'static, Outcome> {
            Scripted::call(context)
        }
    }
    let rig = Rig::new();
    rig.enqueue(draft(0).max_attempts(1));
    let stuck = rig.scripted(|_| std::future::pending());
    rig.run_and_kill(stuck.register::<Patient>(), SECOND);
    let worker = rig.scripted(|_| async { Outcome::Done });
    let report = rig.run(worker.register::<Patient>());
    assert_eq!((report.dead, report.done), (0, 1));
}

#[test]
fn messages_that_wait_for_a_slot_are_renewed_too() {
    let rig = Rig::new();
    rig.enqueue_plain(300);
    let sim = rig.sim.clone();
    let worker = rig.worker(move |context| {
        let sim = sim.clone();
        async move {
            // Quick at first, so that the worker prefetches, and then stuck for three leases.
            if number(&context) >= 200 {
                sim.sleep(SECOND * 90).await;
            }
            Outcome::Done
        }
    });
    let report = rig.run(worker.concurrency(10));
    assert_eq!(
        (report.done, report.lease_lost, report.reclaimed),
        (300, 0, 0)
    );
}

#[test]
fn handlers_of_one_queue_share_the_longest_lease() {
    struct Longer;
    impl Handler for Longer {
        fn definition() -> Definition {
            Definition::new("longer", "q")
                .kinds(vec!["long".into()])
                .lease_ttl(SECOND * 90)
        }
        fn requires(_: &mut Requirements) {}
        fn call(context: Context) -> outbox_core::BoxFuture<'static, Outcome> {
            Scripted::call(context)
        }
    }
    for longer_first in [false, true] {
        let rig = Rig::new();
        rig.enqueue(draft(0));
        let worker = rig.scripted(|_| std::future::pending());
        rig.start(if longer_first {
            worker.register::<Longer>().register::<Scripted>()
        } else {
            worker.register::<Scripted>().register::<Longer>()
        });
        rig.pass(Duration::from_millis(1));
        let (_, ends) = rig.memory().messages()[0].lease.expect("it runs");
        let left = ends.duration_since(rig.memory().now()).expect("it holds");
        assert!(left > SECOND * 89, "{left:?}");
    }
}
