//! Several exchanges under way at once, where the storage works on several.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use outbox_core::{BoxFuture, Context, Outcome, Runtime, Storage, Worker};
use outbox_testkit::SimRuntime;
use support::{Fault, Rig, SECOND, Script, Scripted, draft, plan};

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

fn rig(concurrent_exchanges: usize) -> Rig {
    let mut rig = Rig::new();
    rig.storage.concurrent_exchanges = concurrent_exchanges;
    rig
}

/// A handler that is ready at once: its outcome goes with a claim.
const AT_ONCE: Duration = Duration::ZERO;

/// A worker whose handlers take so long.
fn worker_of(rig: &Rig, duration: Duration) -> Worker {
    let sim = rig.sim.clone();
    rig.worker(move |_| {
        let sim = sim.clone();
        async move {
            if duration > AT_ONCE {
                sim.sleep(duration).await;
            }
            Outcome::Done
        }
    })
}

/// Starts a worker whose handlers take a second, and does not poll.
fn start(rig: &Rig, concurrency: usize) -> outbox_core::WorkerHandle {
    rig.start(
        worker_of(rig, SECOND)
            .concurrency(concurrency)
            .prefetch(0)
            .poll_interval(HOUR),
    )
}

/// A worker that holds so many messages, whose third claim takes two seconds.
fn with_a_slow_claim(rig: &Rig, messages: usize) -> outbox_core::WorkerHandle {
    rig.enqueue_plain(messages);
    plan(&rig.storage.claims, [Fault::None, Fault::None, Fault::Late]);
    let worker = start(rig, messages * 2);
    rig.pass(MILLISECOND * 1_100);
    assert_eq!(rig.storage.log.count("claim Pending"), 2);
    worker
}

#[test]
fn outcomes_are_written_while_a_claim_is_under_way() {
    let rig = rig(2);
    let _worker = with_a_slow_claim(&rig, 60);
    let left = rig.memory().messages().len();
    assert!(left <= 10, "{left} of 60");
}

#[test]
fn a_storage_that_takes_one_exchange_gets_no_other() {
    let rig = rig(1);
    let _worker = with_a_slow_claim(&rig, 60);
    assert_eq!(rig.memory().messages().len(), 60);
    rig.pass(SECOND);
    assert_eq!(rig.storage.log.count("settle 60"), 1);
}

/// The runtime decides who comes first of those that are ready, the agent or the handler.
#[test]
fn what_is_handled_at_once_is_settled_before_more_is_asked_for() {
    let rig = rig(1);
    let worker = rig.worker(|_| async { Outcome::Done });
    let _worker = rig.start(worker.poll_interval(HOUR));
    for _ in 0..20 {
        rig.pass(SECOND);
        let before = rig.storage.log.all().len();
        rig.enqueue_plain(1);
        rig.pass(SECOND);
        let calls = rig.storage.log.all();
        assert_eq!(
            calls[before..],
            ["claim Pending", "settle 1", "claim Pending"]
        );
    }
}

#[test]
fn a_handler_that_waits_delays_the_next_claim_by_its_first_turn_alone() {
    let rig = rig(1);
    let _worker = start(&rig, 100);
    for _ in 0..20 {
        rig.pass(SECOND * 2);
        let before = rig.storage.log.count("claim Pending");
        rig.enqueue_plain(1);
        rig.pass(MILLISECOND);
        assert_eq!(rig.storage.log.count("claim Pending"), before + 2);
    }
}

/// How many claims were sent since a settle was that takes two seconds, after handlers that take so long.
fn claims_beside_a_slow_settle(
    handler: Duration,
    worthwhile: Option<usize>,
    after: Duration,
) -> usize {
    let rig = rig(2);
    *rig.storage
        .worthwhile_exchanges
        .lock()
        .expect("no test panics here") = worthwhile;
    rig.enqueue_plain(1);
    plan(&rig.storage.settles, [Fault::Late]);
    let worker = worker_of(&rig, handler);
    let _worker = rig.start(worker.poll_interval(MILLISECOND * 10));
    while rig.storage.log.count("settle 1") == 0 {
        rig.pass(MILLISECOND);
    }
    let before = rig.storage.log.count("claim Pending");
    rig.pass(after);
    rig.storage.log.count("claim Pending") - before
}

#[test]
fn an_exchange_that_is_not_worth_it_is_begun_once_another_takes_long() {
    let (alone, soon) = (MILLISECOND, MILLISECOND * 90);
    assert!(claims_beside_a_slow_settle(alone, None, soon) > 0);
    assert_eq!(claims_beside_a_slow_settle(alone, Some(1), soon), 0);
    assert!(claims_beside_a_slow_settle(alone, Some(1), soon * 2) > 0);
    assert_eq!(claims_beside_a_slow_settle(alone, Some(0), soon), 0);
}

#[test]
fn a_claim_that_waits_for_the_outcomes_it_went_with_holds_up_no_other_for_long() {
    let soon = MILLISECOND * 90;
    assert_eq!(claims_beside_a_slow_settle(AT_ONCE, None, soon), 0);
    assert!(claims_beside_a_slow_settle(AT_ONCE, None, soon * 2) > 0);
    assert_eq!(claims_beside_a_slow_settle(AT_ONCE, Some(1), soon), 0);
    assert!(claims_beside_a_slow_settle(AT_ONCE, Some(1), soon * 2) > 0);
}

/// The simulated runtime, whose clock goes on by forty milliseconds before each of so many readings.
struct Slow {
    sim: SimRuntime,
    readings: AtomicU32,
    behind: AtomicU32,
}

impl Runtime for Slow {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.sim.spawn(task);
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sim.sleep(duration)
    }
    fn spawn_thread(&self, name: &str, task: BoxFuture<'static, ()>) -> std::io::Result<()> {
        self.sim.spawn_thread(name, task)
    }
    fn now(&self) -> Instant {
        if self.readings.load(Ordering::Relaxed) > 0 {
            self.readings.fetch_sub(1, Ordering::Relaxed);
            self.behind.fetch_add(1, Ordering::Relaxed);
        }
        self.sim.now() + MILLISECOND * 40 * self.behind.load(Ordering::Relaxed)
    }
}

#[test]
fn an_exchange_that_takes_long_since_this_turn_holds_up_nothing() {
    let rig = rig(2);
    *rig.storage
        .worthwhile_exchanges
        .lock()
        .expect("no test panics here") = Some(1);
    rig.enqueue_plain(1);
    plan(&rig.storage.settles, [Fault::Late]);
    let slow = Arc::new(Slow {
        sim: rig.sim.clone(),
        readings: AtomicU32::new(0),
        behind: AtomicU32::new(0),
    });
    let sim = rig.sim.clone();
    // Not at once, so that no claim goes with the outcome.
    let script = move |_: Context| -> BoxFuture<'static, Outcome> {
        Box::pin(sim.sleep(MILLISECOND).map(|()| Outcome::Done))
    };
    let worker = Worker::new(Arc::new(rig.storage.clone()), slow.clone())
        .data(Script(Box::new(script)))
        .register::<Scripted>();
    let worker = rig.start(worker.poll_interval(HOUR));
    while rig.storage.log.count("settle 1") == 0 {
        rig.pass(MILLISECOND);
    }
    rig.pass(MILLISECOND * 50);
    // The hint comes before the tenth of a second is over, and the worker sleeps after it.
    slow.readings.store(2, Ordering::Relaxed);
    rig.enqueue_plain(1);
    rig.pass(MILLISECOND * 500);
    assert_eq!(slow.readings.load(Ordering::Relaxed), 0);
    assert_eq!(worker.report().started, 2);
}

#[test]
fn what_is_held_begins_though_the_first_of_its_claim_take_long_to_settle() {
    let rig = rig(1);
    // So many end at once that more is claimed than has room in the line.
    rig.enqueue_plain(200);
    let worker = rig.worker(|_| async { Outcome::Done });
    let worker = rig.start(worker.concurrency(1).poll_interval(HOUR));
    while worker.report().done < 200 {
        rig.pass(MILLISECOND);
    }
    plan(&rig.storage.settles, [Fault::Late]);
    let together = (0..6).map(|number| draft(number).check(1024).expect("a valid draft"));
    let written = rig.memory().enqueue(together.collect());
    rig.sim.block_on(written).expect("memory does not fail");
    // Before it looks after the runners.
    rig.pass(MILLISECOND * 5);
    assert_eq!(worker.report().started, 206);
}

#[test]
fn few_outcomes_wait_for_the_exchange_that_is_under_way() {
    let rig = rig(2);
    rig.enqueue_plain(40);
    plan(&rig.storage.claims, [Fault::None, Fault::None, Fault::Late]);
    let worker = worker_of(&rig, MILLISECOND * 50).concurrency(80);
    let _worker = rig.start(worker.prefetch(0).poll_interval(HOUR));
    rig.pass(MILLISECOND * 90);
    assert_eq!(rig.storage.log.count("claim Pending"), 2);
    assert_eq!(rig.memory().messages().len(), 40);
    // But not for one that takes long.
    rig.pass(MILLISECOND * 20);
    assert_eq!(rig.storage.log.count("settle 40"), 1);
}

#[test]
fn a_worker_may_have_no_limit_of_handlers() {
    let rig = rig(2);
    rig.enqueue_plain(1_000);
    let worker = start(&rig, usize::MAX);
    rig.pass(SECOND * 2);
    assert_eq!(worker.report().done, 1_000);
}

#[test]
fn claims_that_lost_their_replies_side_by_side_are_both_asked_for_again() {
    let rig = rig(2);
    rig.enqueue_plain(400);
    plan(
        &rig.storage.claims,
        [Fault::None, Fault::None, Fault::After, Fault::After],
    );
    let _worker = start(&rig, 200);
    rig.pass(SECOND * 10);
    assert!(rig.memory().messages().is_empty());
    assert_eq!(rig.events.count("lease lost"), 0);
    let tokens = rig.storage.tokens.lock().expect("no test panics here");
    let resumed: Vec<_> = tokens.iter().filter(|(_, resumed)| *resumed).collect();
    assert_eq!(resumed.len(), 2, "{tokens:?}");
    for (token, _) in resumed {
        assert!(tokens.contains(&(*token, false)), "of a claim before");
    }
}

#[test]
fn nothing_is_claimed_beside_outcomes_that_could_not_be_written() {
    let rig = rig(2);
    rig.enqueue_plain(1);
    // Those that end during the first call go together, fail, and are asked again in parts.
    let slowly = std::iter::repeat_n(Fault::Late, 20);
    plan(&rig.storage.settles, [Fault::Late, Fault::Before]);
    plan(&rig.storage.settles, slowly);
    let _worker = start(&rig, 20);
    rig.pass(SECOND / 2);
    rig.enqueue_plain(8);
    while rig.events.count("failed 1") == 0 {
        rig.pass(MILLISECOND * 10);
    }
    rig.enqueue_plain(1);
    rig.pass(SECOND * 60);
    let events = rig.events.all();
    let started = events.iter().position(|event| event == "started 10");
    let settled = events
        .iter()
        .rposition(|event| event.starts_with("settled ") && !event.starts_with("settled 10 "));
    assert!(started > settled && settled.is_some(), "{events:?}");
}

#[test]
fn a_run_until_idle_ends_where_the_last_outcomes_went_beside_a_claim() {
    let rig = rig(2);
    rig.enqueue_plain(50);
    plan(&rig.storage.claims, [Fault::None, Fault::None, Fault::Late]);
    let sim = rig.sim.clone();
    let worker = rig.worker(move |_| {
        let sim = sim.clone();
        async move {
            sim.sleep(SECOND).await;
            Outcome::Done
        }
    });
    let begin = rig.sim.now();
    let report = rig.run(worker.concurrency(100).prefetch(0).poll_interval(HOUR));
    assert_eq!(report.done, 50);
    let took = rig.sim.now() - begin;
    assert!(took < SECOND * 5, "{took:?}");
}

#[test]
fn outcomes_that_are_asked_again_one_by_one_let_nothing_be_claimed() {
    let rig = rig(2);
    rig.enqueue_plain(4);
    *rig.storage.too_heavy.lock().expect("no test panics here") = Some(0);
    let worker = rig.worker(|_| async { Outcome::Done });
    let _worker = rig.start(worker.poll_interval(SECOND));
    rig.pass(SECOND);
    rig.enqueue_plain(1);
    rig.pass(SECOND * 60);
    assert_eq!(rig.events.count("started 5"), 0);
}

#[test]
fn the_storage_is_not_well_while_an_outcome_that_failed_is_under_way() {
    let rig = rig(2);
    rig.enqueue_plain(1);
    plan(&rig.storage.settles, [Fault::Before, Fault::Hang]);
    let worker = rig.worker(|_| async { Outcome::Done });
    let _worker = rig.start(worker.poll_interval(SECOND));
    rig.pass(SECOND * 3);
    rig.enqueue_plain(1);
    rig.pass(SECOND * 3);
    assert_eq!(rig.events.count("started 2"), 1, "it goes on beside");
    assert_eq!(rig.events.count("recovered 1"), 0);
    rig.pass(SECOND * 20);
    assert_eq!(rig.events.count("recovered 2"), 1);
}

#[test]
fn a_claim_that_failed_is_asked_for_again_while_another_does_not_answer() {
    let rig = rig(2);
    rig.enqueue_plain(400);
    plan(
        &rig.storage.claims,
        [Fault::None, Fault::None, Fault::Hang, Fault::After],
    );
    let _worker = start(&rig, 200);
    rig.pass(SECOND * 3);
    let resumed = |rig: &Rig| {
        let tokens = rig.storage.tokens.lock().expect("no test panics here");
        tokens.iter().filter(|(_, resumed)| *resumed).count()
    };
    assert_eq!(resumed(&rig), 1);
}

#[test]
fn outcomes_that_do_not_get_an_answer_hold_up_no_poll() {
    for handler in [AT_ONCE, MILLISECOND] {
        let rig = rig(2);
        rig.enqueue_plain(1);
        plan(&rig.storage.settles, [Fault::Hang]);
        let worker = worker_of(&rig, handler);
        let _worker = rig.start(worker.poll_interval(SECOND));
        rig.pass(SECOND / 2);
        let before = rig.storage.log.count("claim Pending");
        rig.pass(SECOND * 5);
        let polls = rig.storage.log.count("claim Pending") - before;
        assert!((4..=7).contains(&polls), "{polls}");
    }
}

#[test]
fn what_is_enqueued_while_outcomes_wait_runs_and_settles_beside_them() {
    let rig = rig(2);
    rig.enqueue_plain(1);
    plan(&rig.storage.settles, [Fault::Late]);
    let worker = worker_of(&rig, AT_ONCE).concurrency(4).prefetch(0);
    let worker = rig.start(worker.poll_interval(HOUR));
    while rig.storage.log.count("settle 1") == 0 {
        rig.pass(MILLISECOND);
    }
    let together = (0..9).map(|number| draft(number).check(1024).expect("a valid draft"));
    let written = rig.memory().enqueue(together.collect());
    rig.sim.block_on(written).expect("memory does not fail");
    rig.pass(MILLISECOND * 90);
    assert_eq!(worker.report().started, 1);
    rig.pass(MILLISECOND * 20);
    // Two slots are kept for the claim that is under way, and the others end and settle beside it.
    assert_eq!(rig.storage.log.count("settle 2"), 4);
    assert_eq!(worker.report().done, 9);
    rig.pass(SECOND * 3);
    assert_eq!(worker.report().done, 10);
}
