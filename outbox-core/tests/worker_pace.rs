//! When a worker claims, how much, and what it does while there is nothing to do.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outbox_core::{
    BoxFuture, Context, Definition, Draft, ErrorKind, Handler, IntoOutcome, MemoryStorage, Outcome,
    Requirements, Runtime, Source, Worker,
};
use outbox_testkit::SimRuntime;
use support::{Log, Rig, SECOND, Script, Scripted, draft, number};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn no_more_handlers_run_at_once_than_allowed_and_all_slots_are_used() {
    let rig = Rig::new();
    rig.enqueue_plain(50);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running, highest, sim) = (Arc::clone(&now), Arc::clone(&most), rig.sim.clone());
    let worker = rig.worker(move |_| {
        let (running, highest, sim) = (Arc::clone(&running), Arc::clone(&highest), sim.clone());
        async move {
            let now = running.fetch_add(1, Ordering::Relaxed) + 1;
            highest.fetch_max(now, Ordering::Relaxed);
            sim.sleep(Duration::from_millis(10)).await;
            running.fetch_sub(1, Ordering::Relaxed);
            Outcome::Done
        }
    });
    let report = rig.run(worker.concurrency(7));
    assert_eq!(report.done, 50);
    assert_eq!(most.load(Ordering::Relaxed), 7);
}

/// The simulated runtime, which counts pauses of ten milliseconds.
struct CountsLooks(SimRuntime, AtomicUsize);

impl Runtime for CountsLooks {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.spawn(task);
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if duration == Duration::from_millis(10) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
        self.0.sleep(duration)
    }
    fn spawn_thread(&self, name: &str, task: BoxFuture<'static, ()>) -> std::io::Result<()> {
        self.0.spawn_thread(name, task)
    }
    fn now(&self) -> std::time::Instant {
        self.0.now()
    }
}

#[test]
fn handlers_that_wait_with_others_in_line_do_not_keep_the_worker_awake() {
    let rig = Rig::new();
    // The first are quick, so that there is a stock of the others.
    rig.enqueue_plain(200);
    let runtime = Arc::new(CountsLooks(rig.sim.clone(), AtomicUsize::new(0)));
    let sim = rig.sim.clone();
    let script = move |context: Context| {
        let sim = sim.clone();
        async move {
            let slow = number(&context) >= 180;
            sim.sleep(SECOND * u32::from(slow)).await;
            Outcome::Done
        }
    };
    let worker = Worker::new(Arc::new(rig.storage.clone()), runtime.clone())
        .data(Script(Box::new(move |context| Box::pin(script(context)))))
        .register::<Scripted>()
        .concurrency(2);
    let report = rig.run(worker);
    assert_eq!(report.done, 200);
    let looks = runtime.1.load(Ordering::Relaxed);
    // With a look every ten milliseconds it would be a thousand.
    assert!(looks < 300, "{looks} looks in 10 seconds");
}

#[test]
fn a_backlog_drains_at_the_pace_of_the_handlers_and_not_of_the_poll() {
    let rig = Rig::new();
    rig.enqueue_plain(60);
    let sim = rig.sim.clone();
    let worker = rig.worker(move |_| {
        let sim = sim.clone();
        async move {
            sim.sleep(Duration::from_millis(10)).await;
            Outcome::Done
        }
    });
    // Six rounds of ten; the poll would allow ten an hour.
    rig.run(worker.concurrency(10).prefetch(0).poll_interval(HOUR));
    let elapsed = rig.sim.elapsed();
    assert!(elapsed <= Duration::from_millis(65), "{elapsed:?}");
}

/// A claim for each end would cost a statement for each message.
#[test]
fn what_is_in_stock_is_used_up_by_half_before_more_is_claimed() {
    let rig = Rig::new();
    rig.enqueue_plain(400);
    let sim = rig.sim.clone();
    let worker = rig.worker(move |context| {
        let sim = sim.clone();
        // They end one by one.
        let time = Duration::from_millis(15) + Duration::from_micros(number(&context) as u64 * 37);
        async move {
            sim.sleep(time).await;
            Outcome::Done
        }
    });
    let report = rig.run(worker.concurrency(20).prefetch(20).poll_interval(HOUR));
    assert_eq!(report.done, 400);
    let claims = rig.storage.log.count("claim Pending");
    // Few at first, as the prefetch follows what ran.
    assert!(claims <= 100, "{claims} claims");
}

#[test]
fn a_full_queue_does_not_starve_the_others() {
    struct Other;
    impl Handler for Other {
        fn definition() -> Definition {
            Definition::new("other", "a-later-queue").kinds(vec!["k".into()])
        }
        fn requires(_: &mut Requirements) {}
        fn call(context: Context) -> outbox_core::BoxFuture<'static, Outcome> {
            Scripted::call(context)
        }
    }
    let rig = Rig::new();
    rig.enqueue_plain(200);
    let other = rig.enqueue(Draft::json("a-later-queue", "k", &0));
    let sim = rig.sim.clone();
    let worker = rig.worker(move |_| {
        let sim = sim.clone();
        async move {
            sim.sleep(SECOND).await;
            Outcome::Done
        }
    });
    rig.start(worker.register::<Other>().concurrency(4));
    rig.pass(SECOND * 4);
    let done = rig.events.all();
    assert!(
        done.contains(&format!("settled {other} Done")),
        "it had its turn among the first few of 200"
    );
}

#[test]
fn a_future_message_starts_when_it_is_due_and_not_at_the_next_poll() {
    let rig = Rig::new();
    rig.enqueue(draft(0).after(Duration::from_millis(3_300)));
    let started = Log::default();
    let (log, sim) = (started.clone(), rig.sim.clone());
    let worker = rig.worker(move |_| {
        log.add(format!("{:?}", sim.elapsed()));
        async { Outcome::Done }
    });
    rig.run(worker.poll_interval(HOUR));
    assert_eq!(started.all(), ["3.3s"]);
}

#[test]
fn a_short_retry_or_snooze_does_not_wait_for_the_poll() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    let started = Log::default();
    let (log, sim) = (started.clone(), rig.sim.clone());
    let worker = rig.worker(move |context| {
        log.add(format!("{:?}", sim.elapsed()));
        let after = Duration::from_millis(70);
        let delivery = context.message().deliveries;
        async move {
            match delivery {
                1 => outbox_core::Failure::retry_in(after, "soon").into_outcome(),
                2 => Outcome::Snooze(after),
                _ => Outcome::Done,
            }
        }
    });
    rig.start(worker.poll_interval(HOUR));
    rig.pass(SECOND);
    assert_eq!(started.all(), ["0ns", "70ms", "140ms"]);
}

#[test]
fn an_enqueue_wakes_an_idle_worker() {
    let rig = Rig::new();
    let worker = rig.worker(|_| async { Outcome::Done });
    rig.start(worker.poll_interval(HOUR));
    rig.pass(SECOND * 100);
    let id = rig.enqueue(draft(0));
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.events.count(&format!("settled {id} Done")), 1);
}

#[test]
fn without_hints_a_message_waits_for_the_poll_and_no_longer() {
    let rig = Rig::new();
    // A second storage handle whose wake-ups never come: the default of the trait.
    struct Silent(MemoryStorage);
    #[async_trait::async_trait]
    impl outbox_core::Storage for Silent {
        async fn enqueue(
            &self,
            messages: Vec<outbox_core::NewMessage>,
        ) -> Result<Vec<Option<outbox_core::MessageId>>, outbox_core::Error> {
            self.0.enqueue(messages).await
        }
        async fn claim(
            &self,
            request: &outbox_core::ClaimRequest,
        ) -> Result<outbox_core::Claim, outbox_core::Error> {
            self.0.claim(request).await
        }
        async fn settle(
            &self,
            settlements: &[outbox_core::Settlement],
        ) -> Result<outbox_core::Settled, outbox_core::Error> {
            self.0.settle(settlements).await
        }
        async fn renew(
            &self,
            renewals: &[outbox_core::Renewal],
        ) -> Result<outbox_core::Renewed, outbox_core::Error> {
            self.0.renew(renewals).await
        }
    }
    let events = rig.events.clone();
    let worker = outbox_core::Worker::new(
        Arc::new(Silent(rig.memory().clone())),
        Arc::new(rig.sim.clone()),
    )
    .data(support::Script(Box::new(|_| {
        Box::pin(async { Outcome::Done })
    })))
    .register::<Scripted>()
    .poll_interval(SECOND * 10)
    .observe(move |event| {
        if matches!(event, outbox_core::Event::Settled { .. }) {
            events.add("settled");
        }
    });
    rig.start(worker);
    rig.pass(Duration::from_millis(1));
    rig.enqueue(draft(0));
    rig.pass(Duration::from_millis(7_900));
    assert_eq!(
        rig.events.count("settled"),
        0,
        "the earliest poll is at 8 s"
    );
    rig.pass(Duration::from_millis(4_200));
    assert_eq!(rig.events.count("settled"), 1, "the latest poll is at 12 s");
}

#[test]
fn an_idle_worker_asks_the_storage_only_as_often_as_it_says() {
    let rig = Rig::new();
    let report = rig.run_for(rig.worker(|_| async { Outcome::Done }), SECOND * 100);
    // A poll every 0.8 to 1.2 s, a look for expired leases every 7.5 s, and nothing to renew.
    assert!((95..=140).contains(&report.exchanges), "{report:?}");
    assert_eq!(report.renewals, 0);
}

#[test]
fn slow_handlers_do_not_hoard_messages() {
    let rig = Rig::new();
    rig.enqueue_plain(300);
    let sim = rig.sim.clone();
    let worker = rig.worker(move |_| {
        let sim = sim.clone();
        async move {
            sim.sleep(SECOND * 20).await;
            Outcome::Done
        }
    });
    rig.start(worker.concurrency(10).prefetch(100));
    rig.pass(SECOND * 50);
    let leased = rig
        .memory()
        .messages()
        .iter()
        .filter(|message| message.lease.is_some())
        .count();
    assert!(
        (10..=30).contains(&leased),
        "{leased} are leased for 10 slots"
    );
}

#[test]
fn a_run_until_idle_waits_for_retries_within_its_horizon_and_leaves_later_messages() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    let far = rig.enqueue(draft(1).after(HOUR));
    let worker = rig.worker(|context| async move {
        if context.message().attempt == 1 {
            support::retry("once")
        } else {
            Outcome::Done
        }
    });
    let report = rig
        .sim
        .block_on(worker.run_until_idle(SECOND * 60))
        .expect("configured");
    assert_eq!((report.retried, report.done), (1, 1));
    assert_eq!(rig.memory().messages()[0].id, far);
}

#[test]
fn a_run_until_idle_waits_for_what_another_worker_holds() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    assert_eq!(rig.steal(Source::Pending).len(), 1);
    let report = rig.run(rig.worker(|_| async { Outcome::Done }));
    assert_eq!(
        (report.reclaimed, report.done),
        (1, 1),
        "after the other's minute"
    );
}

#[test]
fn urgent_messages_run_first() {
    let rig = Rig::new();
    for priority in [0, 3, -3, 1, -1] {
        rig.enqueue(draft(0).priority(priority));
    }
    rig.run(
        rig.worker(|_| async { Outcome::Done })
            .concurrency(1)
            .prefetch(0),
    );
    let order: Vec<_> = rig
        .events
        .all()
        .into_iter()
        .filter(|event| event.starts_with("started"))
        .collect();
    assert_eq!(
        order,
        [
            "started 3",
            "started 5",
            "started 1",
            "started 4",
            "started 2"
        ]
    );
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    let rig = Rig::new();
    let worker = || rig.worker(|_| async { Outcome::Done });
    for (refused, name) in [
        (worker().concurrency(0), "concurrency"),
        (worker().poll_interval(Duration::ZERO), "poll_interval"),
        (worker().poll_interval(HOUR * 2), "poll_interval"),
        (worker().storage_timeout(Duration::ZERO), "storage_timeout"),
        (worker().grace(Duration::MAX), "grace"),
        (
            worker().unknown_kind_delay(Duration::ZERO),
            "unknown_kind_delay",
        ),
        (rig.bare_worker(), "no handler"),
    ] {
        let error = refused.prepare().expect_err("it must be refused");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn two_handlers_of_one_kind_are_refused_with_both_places() {
    struct Twin;
    impl Handler for Twin {
        fn definition() -> Definition {
            Definition::new("twin", "q")
                .kinds(vec!["k".into()])
                .location("twin.rs:1")
        }
        fn requires(_: &mut Requirements) {}
        fn call(context: Context) -> outbox_core::BoxFuture<'static, Outcome> {
            Scripted::call(context)
        }
    }
    let rig = Rig::new();
    let worker = rig.worker(|_| async { Outcome::Done }).register::<Twin>();
    let error = worker.prepare().expect_err("it must be refused");
    assert_eq!(error.kind(), ErrorKind::DuplicateHandler);
    let text = error.to_string();
    assert!(
        text.contains("`scripted` (support/mod.rs)") && text.contains("`twin` (twin.rs:1)"),
        "{text}"
    );
}

#[test]
fn a_definition_that_cannot_work_is_refused_with_its_place() {
    struct Bad<const N: u8>;
    impl<const N: u8> Handler for Bad<N> {
        fn definition() -> Definition {
            let definition = Definition::new("bad", "q").kinds(vec!["k".into()]);
            match N {
                0 => definition.lease_ttl(Duration::from_millis(999)),
                1 => definition.timeout(Duration::ZERO),
                2 => definition.max_attempts(0),
                3 => definition.kinds(vec![]),
                4 => definition.kinds(vec!["a\0b".into()]),
                _ => Definition::new("bad", "").kinds(vec!["k".into()]),
            }
            .location("bad.rs:1")
        }
        fn requires(_: &mut Requirements) {}
        fn call(context: Context) -> outbox_core::BoxFuture<'static, Outcome> {
            Scripted::call(context)
        }
    }
    let rig = Rig::new();
    for (worker, word) in [
        (rig.bare_worker().register::<Bad<0>>(), "lease_ttl"),
        (rig.bare_worker().register::<Bad<1>>(), "timeout"),
        (rig.bare_worker().register::<Bad<2>>(), "max_attempts"),
        (rig.bare_worker().register::<Bad<3>>(), "no kind"),
        (rig.bare_worker().register::<Bad<4>>(), "NUL"),
        (rig.bare_worker().register::<Bad<5>>(), "queue is empty"),
    ] {
        let error = worker.prepare().expect_err("it must be refused");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(
            error.to_string().contains("bad.rs:1") && error.to_string().contains(word),
            "{error}"
        );
    }
}
