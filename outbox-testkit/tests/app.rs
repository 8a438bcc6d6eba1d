//! `TestApp` runs handlers as a worker would, without real time, and says what is wrong with a test
//! that would never end.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox::prelude::*;
use outbox::{DeadReason, Outcome, Runtime};
use outbox_testkit::{Fault, Operation, SimRuntime, TestApp, assert_enqueued};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// What happened, in order.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Log {
    fn add(&self, what: impl Into<String>) {
        self.0.lock().expect("no panic").push(what.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().expect("no panic").clone()
    }
}

#[job(queue = "mail", max_attempts = 3, retry = RetryPolicy::Fixed(HOUR))]
async fn greet(name: String, Data(log): Data<Log>, attempt: Attempt) -> outbox::Result {
    log.add(format!("{name} {}", attempt.number));
    match &*name {
        "fails" => Err("refused").or_retry(),
        "is bad" => Err("refused").or_dead(),
        _ => Ok(()),
    }
}

/// Waits twice, and adds to the log between.
#[job(queue = "mail")]
async fn work(name: String, Data(log): Data<Log>, Data(sim): Data<SimRuntime>, lease: Lease) {
    log.add(format!("{name} begins, delivery {}", lease.fence()));
    sim.sleep(SECOND).await;
    log.add(format!("{name} goes on, lost: {}", lease.is_lost()));
    sim.sleep(SECOND).await;
    log.add(format!("{name} ends"));
}

#[job(queue = "other")]
async fn elsewhere(_: ()) {}

#[job(queue = "mail")]
async fn snooze(_: ()) -> outbox::Result {
    Err(Failure::snooze(SECOND))
}

#[job(queue = "mail")]
async fn endless(_: ()) {
    std::future::pending().await
}

#[derive(serde::Serialize, serde::Deserialize, Message)]
#[message(queue = "orders")]
struct OrderPlaced {
    id: i64,
    customer: String,
}

fn app() -> (TestApp, Arc<Log>) {
    let log = Arc::new(Log::default());
    let app = TestApp::new();
    let sim = app.runtime().clone();
    let app = app
        .shared_data(Arc::clone(&log))
        .data(sim)
        .register::<greet>()
        .register::<work>();
    (app, log)
}

fn panic_text<T>(run: impl FnOnce() -> T) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(run)) else {
        panic!("it must panic");
    };
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => (*panic.downcast::<&str>().expect("a message")).to_owned(),
    }
}

fn greeting(name: &str) -> Draft {
    greet::job(name.to_owned())
}

fn working(name: &str) -> Draft {
    work::job(name.to_owned())
}

#[test]
fn retries_run_when_they_are_due_and_nobody_waits() {
    let (app, log) = app();
    app.enqueue(greeting("fails"));
    app.enqueue(greeting("is bad"));
    app.enqueue(greeting("late").after(HOUR * 24 * 365));
    let report = app.run_until_idle();
    assert_eq!((report.started, report.retried), (5, 2));
    assert_eq!((report.done, report.dead), (1, 2));
    let (mut first, later) = (log.all(), log.all().split_off(2));
    first.truncate(2);
    first.sort();
    assert_eq!(first, ["fails 1", "is bad 1"]);
    assert_eq!(later, ["fails 2", "fails 3", "late 1"]);
    assert_eq!(app.runtime().elapsed(), HOUR * 24 * 365);
    let reasons: Vec<_> = app.dead_letters().iter().map(|dead| dead.reason).collect();
    assert_eq!(reasons, [DeadReason::Rejected, DeadReason::Exhausted]);
    assert!(app.messages().is_empty());
}

#[test]
fn what_is_due_later_is_left_when_asked_for() {
    let (app, log) = app();
    app.enqueue(greeting("fails"));
    app.enqueue(greeting("later").after(SECOND));
    assert_eq!(app.run_due().retried, 1);
    assert_eq!(app.runtime().elapsed(), Duration::ZERO);
    assert_eq!(app.messages().len(), 2);
    app.advance(SECOND);
    assert_eq!(app.run_due().done, 1);
    assert_eq!(log.all(), ["fails 1", "later 1"]);
}

#[test]
fn a_deploy_lets_handlers_end_and_a_crash_does_not() {
    let (app, log) = app();
    app.enqueue(working("one"));
    let report = app.run_for(SECOND / 2);
    assert_eq!((report.done, report.released), (1, 0));

    app.enqueue(working("two"));
    app.crash_after(SECOND / 2);
    assert!(app.messages()[0].lease.is_some(), "nobody gave it back");
    let report = app.run_until_idle();
    assert_eq!((report.reclaimed, report.done), (1, 1));
    let deliveries: Vec<_> = log
        .all()
        .into_iter()
        .filter(|line| line.contains("two"))
        .collect();
    assert_eq!(
        deliveries,
        [
            "two begins, delivery 1",
            "two begins, delivery 2",
            "two goes on, lost: false",
            "two ends"
        ]
    );
}

#[test]
fn calls_of_the_worker_fail_as_planned() {
    let (app, log) = app();
    app.faults().plan(Operation::Settle, [Fault::After]);
    app.enqueue(greeting("ann"));
    let report = app.run_until_idle();
    assert_eq!((report.started, report.unresolved), (1, 1));
    assert_eq!(report.storage_errors, 1);
    assert_eq!(log.all(), ["ann 1"]);
}

#[test]
fn messages_of_queues_that_nobody_serves_stay() {
    let (app, _) = app();
    app.enqueue(elsewhere::job(()));
    assert_eq!(app.run_until_idle().started, 0);
    assert_eq!(app.messages().len(), 1);
}

#[test]
fn a_key_is_enqueued_once() {
    let (app, _) = app();
    assert!(app.enqueue(greeting("ann").key("k")).is_some());
    assert!(app.enqueue(greeting("bob").key("k")).is_none());
}

#[test]
fn a_test_that_would_never_end_says_why() {
    let (app, _) = app();
    app.enqueue(snooze::job(()));
    let text = panic_text(|| app.run_until_idle());
    assert!(text.contains("kind \"snooze\" of queue \"mail\""), "{text}");

    let app = app.register::<snooze>();
    let text = panic_text(|| app.run_until_idle());
    assert!(text.contains("kind \"snooze\" was delivered"), "{text}");

    let app = TestApp::new().register::<endless>();
    app.enqueue(endless::job(()));
    let text = panic_text(|| app.run_until_idle());
    assert!(text.contains("has run for a day"), "{text}");
}

#[test]
fn what_a_worker_refuses_is_refused() {
    let app = TestApp::new().register::<greet>();
    let text = panic_text(|| app.run_until_idle());
    assert!(text.contains("asks for Data<app::Log>"), "{text}");
    let text = panic_text(|| app.call::<greet>(greeting("ann")));
    assert!(text.contains("`greet` asks for Data<app::Log>"), "{text}");
    let text = panic_text(|| app.enqueue(greeting("ann").priority(9)));
    assert!(text.contains("priority is 9"), "{text}");
    let text = panic_text(|| app.call::<greet>(elsewhere::job(())));
    assert!(text.contains("`greet` handles [\"greet\"]"), "{text}");
}

#[test]
fn one_call_gives_the_outcome_and_stores_nothing() {
    let (app, log) = app();
    assert!(matches!(app.call::<greet>(greeting("ann")), Outcome::Done));
    let failed = app.call::<greet>(greeting("fails"));
    assert!(matches!(failed, Outcome::Retry { after: None, .. }));
    let mut last = app.message::<greet>(greeting("is bad")).attempt(3);
    assert!(matches!(last.run(), Outcome::Dead { .. }));
    assert_eq!(log.all(), ["ann 1", "fails 1", "is bad 3"]);
    assert!(app.messages().is_empty() && app.dead_letters().is_empty());
    let undecodable = Draft::bytes("mail", "greet", *b"not JSON");
    let undecodable = app.call::<greet>(undecodable);
    assert!(matches!(undecodable, Outcome::Undecodable { .. }));
}

#[test]
fn a_message_by_hand_is_delivered_twice_crashed_and_lost() {
    let (app, log) = app();
    let mut message = app.message::<work>(working("a"));
    let [first, second] = message.run_twice();
    assert!(matches!((first, second), (Outcome::Done, Outcome::Done)));
    assert!(message.crash_at(0).is_none(), "it never begins");
    assert!(message.crash_at(2).is_none());
    assert!(message.crash_at(3).is_some(), "it ends at its third poll");
    assert!(message.lose_lease_at(1).is_none());
    let begins = |line: &String| line.strip_prefix("a begins, delivery ").map(str::to_owned);
    let deliveries: Vec<_> = log.all().iter().filter_map(begins).collect();
    assert_eq!(deliveries, ["1", "2", "4", "5", "6"], "one never began");
    assert_eq!(log.all().last().expect("a line"), "a begins, delivery 6");

    let mut noticed = app.message::<watchful>(watchful::job(()));
    assert!(matches!(
        noticed.lose_lease_at(1),
        Some(Outcome::Discard { .. })
    ));
    let other = app.message::<work>(working("b"));
    assert_ne!(message.id(), other.id());
}

/// Ends by itself when its lease is lost.
#[job(queue = "mail")]
async fn watchful(_: (), lease: Lease) -> outbox::Result {
    lease.lost().await;
    Err("the lease is lost").or_discard()
}

/// What was paid, by the keys that were given.
#[derive(Default)]
struct Bank {
    payments: Mutex<Vec<MessageId>>,
    keys: Mutex<BTreeSet<MessageId>>,
}

#[job(queue = "bank")]
async fn pay_once(_: (), id: MessageId, Data(bank): Data<Bank>, Data(sim): Data<SimRuntime>) {
    sim.sleep(SECOND).await;
    if bank.keys.lock().expect("no panic").insert(id) {
        bank.payments.lock().expect("no panic").push(id);
    }
    sim.sleep(SECOND).await;
}

#[job(queue = "bank")]
async fn pay(_: (), id: MessageId, Data(bank): Data<Bank>, Data(sim): Data<SimRuntime>) {
    sim.sleep(SECOND).await;
    bank.payments.lock().expect("no panic").push(id);
    sim.sleep(SECOND).await;
}

#[test]
fn crashing_at_every_await_tells_who_pays_twice() {
    let bank = Arc::new(Bank::default());
    let app = TestApp::new();
    let sim = app.runtime().clone();
    let app = app.shared_data(Arc::clone(&bank)).data(sim);
    let paid_once = |id: MessageId| {
        let payments = bank.payments.lock().expect("no panic");
        let paid = payments.iter().filter(|paid| **paid == id).count();
        assert_eq!(paid, 1, "message {id}");
    };
    let awaits = app.crash_at_every_await::<pay_once, _>(|| pay_once::job(()), paid_once);
    assert_eq!(awaits, 3, "before it begins, and at two sleeps");
    let twice = catch_unwind(AssertUnwindSafe(|| {
        app.crash_at_every_await::<pay, _>(|| pay::job(()), paid_once)
    }));
    assert!(twice.is_err());
}

#[test]
fn an_assertion_about_the_queue_shows_what_is_there() {
    let app = TestApp::new();
    let placed = |id| OrderPlaced {
        id,
        customer: "ann".to_owned(),
    };
    let text = panic_text(|| assert_enqueued!(app, greeting("ann")));
    assert!(text.contains("nothing is enqueued"), "{text}");
    app.runtime().block_on(async {
        let written = app.outbox().enqueue(placed(7)).await;
        assert!(written.expect("it is valid").is_some());
        let refused = app.outbox().enqueue(placed(7).draft().priority(9)).await;
        assert!(refused.is_err());
    });
    app.enqueue(greeting("ann").after(HOUR));
    assert_enqueued!(app, greeting("ann"));
    assert_enqueued!(app, placed(7));
    assert_enqueued!(app, greet => _);
    assert_enqueued!(app, OrderPlaced => OrderPlaced { id: 7, .. });
    assert_enqueued!(app, OrderPlaced => OrderPlaced { customer, .. } if customer == "ann");
    for text in [
        panic_text(|| assert_enqueued!(app, placed(8))),
        panic_text(|| assert_enqueued!(app, greeting("bob"))),
        panic_text(|| assert_enqueued!(app, work => _)),
        panic_text(|| assert_enqueued!(app, OrderPlaced => OrderPlaced { id: 8, .. })),
    ] {
        assert!(text.starts_with("not enqueued: "), "{text}");
        assert!(
            text.contains("order_placed") || text.contains("OrderPlaced"),
            "{text}"
        );
        assert!(text.contains("greet of queue mail: \"ann\""), "{text}");
    }
}
