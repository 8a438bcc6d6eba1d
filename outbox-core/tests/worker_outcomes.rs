//! What each outcome of a run does to its message.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outbox_core::{
    Attempt, Blocking, Context, DeadReason, Definition, Draft, Error, Failure, FromContext,
    Handler, Headers, IntoOutcome, Lease, MessageId, Outcome, Requirements, RetryPolicy,
};
use support::{Limited, Log, Rig, SECOND, Script, Scripted, draft, number, retry};

#[test]
fn a_message_that_is_done_is_deleted() {
    let rig = Rig::new();
    rig.enqueue_plain(3);
    let report = rig.run(rig.worker(|_| async { Outcome::Done }));
    assert_eq!((report.claimed, report.started, report.done), (3, 3, 3));
    assert!(rig.memory().messages().is_empty());
    assert!(rig.memory().dead_letters().is_empty());
}

#[test]
fn a_failed_attempt_runs_again_after_the_delay_of_its_policy() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    let runs = Log::default();
    let (seen, sim) = (runs.clone(), rig.sim.clone());
    let report = rig.run(rig.worker(move |context| {
        let attempt = context.message().attempt;
        seen.add(format!("attempt {attempt} at {:?}", sim.elapsed()));
        async move {
            if attempt < 3 {
                retry("not yet")
            } else {
                Outcome::Done
            }
        }
    }));
    assert_eq!(
        runs.all(),
        ["attempt 1 at 0ns", "attempt 2 at 10s", "attempt 3 at 20s"]
    );
    assert_eq!((report.retried, report.done, report.dead), (2, 1, 0));
}

#[test]
fn a_handler_may_name_the_delay_itself() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    let runs = Log::default();
    let (seen, sim) = (runs.clone(), rig.sim.clone());
    rig.run(rig.worker(move |context| {
        seen.add(format!("{:?}", sim.elapsed()));
        let first = context.message().attempt == 1;
        async move {
            if first {
                Failure::retry_in(SECOND * 77, "rate limited").into_outcome()
            } else {
                Outcome::Done
            }
        }
    }));
    assert_eq!(runs.all(), ["0ns", "77s"]);
}

#[test]
fn the_last_failed_attempt_makes_a_dead_letter_with_its_error() {
    let rig = Rig::new();
    let id = rig.enqueue(draft(7).max_attempts(3));
    let report = rig.run(rig.worker(|_| async { retry("broken pipe") }));
    assert_eq!((report.retried, report.dead), (2, 1));
    let dead = rig.memory().dead_letters();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].message.id, id);
    assert_eq!(dead[0].reason, DeadReason::Exhausted);
    assert_eq!(dead[0].message.payload, b"7");
    assert_eq!(dead[0].message.attempts, 3);
    assert_eq!(dead[0].message.last_error.as_deref(), Some("broken pipe"));
}

#[test]
fn a_handler_may_override_the_attempts_of_the_message() {
    struct Twice;
    impl Handler for Twice {
        fn definition() -> Definition {
            Scripted::definition().max_attempts(2)
        }
        fn requires(_: &mut Requirements) {}
        fn call(context: Context) -> outbox_core::BoxFuture<'static, Outcome> {
            Scripted::call(context)
        }
    }
    let rig = Rig::new();
    rig.enqueue(draft(0).max_attempts(10));
    let worker = rig.scripted(|context| async move {
        let attempt = Attempt::from_context(&context).expect("always there");
        assert_eq!(attempt.of, 2);
        retry("no")
    });
    let report = rig.run(worker.register::<Twice>());
    assert_eq!((report.started, report.dead), (2, 1));
}

#[test]
fn snoozing_charges_no_attempt() {
    let rig = Rig::new();
    rig.enqueue(draft(0).max_attempts(1));
    let runs = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&runs);
    let report = rig.run(rig.worker(move |context| {
        assert_eq!(context.message().attempt, 1);
        let run = seen.fetch_add(1, Ordering::Relaxed);
        async move {
            if run < 4 {
                Outcome::Snooze(SECOND * 60)
            } else {
                Outcome::Done
            }
        }
    }));
    assert_eq!((report.snoozed, report.done, report.dead), (4, 1, 0));
}

#[test]
fn discarded_and_rejected_messages_are_told_apart() {
    let rig = Rig::new();
    rig.enqueue_plain(2);
    let report = rig.run(rig.worker(|context| async move {
        if number(&context) == 0 {
            Failure::discard("stale").into_outcome()
        } else {
            Failure::dead("no such user").into_outcome()
        }
    }));
    assert_eq!((report.discarded, report.dead), (1, 1));
    let dead = rig.memory().dead_letters();
    assert_eq!(dead[0].reason, DeadReason::Rejected);
    assert_eq!(dead[0].message.last_error.as_deref(), Some("no such user"));
}

#[test]
fn a_panic_is_a_failed_attempt_with_its_text() {
    let rig = Rig::new();
    rig.enqueue_plain(2);
    let report = rig.run_for(
        rig.worker(|context| {
            // One panics before its first await, the other after it.
            let early = number(&context) == 0;
            assert!(!early, "early boom");
            async move { panic!("late boom") }
        }),
        SECOND,
    );
    assert_eq!((report.panicked, report.retried), (2, 2));
    let errors: Vec<_> = rig
        .memory()
        .messages()
        .into_iter()
        .filter_map(|message| message.last_error)
        .collect();
    assert_eq!(errors, ["panicked: early boom", "panicked: late boom"]);
}

#[test]
fn a_handler_that_runs_too_long_is_dropped_and_retried() {
    struct OnDrop(Log);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.add("dropped");
        }
    }
    let rig = Rig::new();
    rig.enqueue(draft(0));
    let dropped = Log::default();
    let seen = dropped.clone();
    let worker = rig.scripted(move |_| {
        let guard = OnDrop(seen.clone());
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    });
    let report = rig.run_for(worker.register::<Limited>(), SECOND * 6);
    assert_eq!((report.timed_out, report.retried), (1, 1));
    assert_eq!(dropped.count("dropped"), 1);
    let error = rig.memory().messages()[0].last_error.clone();
    assert_eq!(error.as_deref(), Some("ran longer than 5s"));
}

#[test]
fn a_panic_while_a_handler_is_dropped_does_not_keep_its_slot() {
    struct PanicOnDrop;
    impl Drop for PanicOnDrop {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }
    let rig = Rig::new();
    rig.enqueue_plain(2);
    let worker = rig
        .scripted(|context| async move {
            if number(&context) == 1 {
                return Outcome::Done;
            }
            let _guard = PanicOnDrop;
            std::future::pending().await
        })
        .register::<Limited>()
        .concurrency(1);
    rig.start(worker);
    rig.pass(SECOND * 7);
    assert_eq!(rig.events.count("settled 2 Done"), 1);
}

#[test]
fn an_undecodable_payload_is_a_dead_letter_at_once_with_its_bytes() {
    let rig = Rig::new();
    rig.enqueue(Draft::bytes("q", "k", b"\xff{secret".to_vec()));
    let report = rig.run(rig.worker(|context| async move {
        match context.decode::<usize>() {
            Ok(_) => Outcome::Done,
            Err(failure) => failure.into_outcome(),
        }
    }));
    assert_eq!((report.started, report.retried, report.dead), (1, 0, 1));
    let dead = rig.memory().dead_letters();
    assert_eq!(dead[0].reason, DeadReason::Undecodable);
    assert_eq!(dead[0].message.payload, b"\xff{secret");
    let error = dead[0].message.last_error.clone().expect("it has one");
    assert!(error.contains("usize"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn an_unknown_kind_is_given_back_with_a_delay_and_charges_no_attempt() {
    let rig = Rig::new();
    rig.enqueue(Draft::json("q", "from-the-future", &1).max_attempts(1));
    rig.enqueue(draft(0));
    let report = rig.run_for(rig.worker(|_| async { Outcome::Done }), SECOND * 100);
    assert_eq!(report.done, 1);
    assert_eq!(report.unknown_kind, 4, "at 0, 30, 60 and 90 seconds");
    let left = rig.memory().messages();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].attempts, left[0].lease.is_some()), (0, false));
}

#[test]
fn a_retry_policy_that_panics_is_replaced_by_the_default() {
    struct Careless;
    impl Handler for Careless {
        fn definition() -> Definition {
            Scripted::definition().retry(RetryPolicy::custom(|_| panic!("a bug in the policy")))
        }
        fn requires(_: &mut Requirements) {}
        fn call(context: Context) -> outbox_core::BoxFuture<'static, Outcome> {
            Scripted::call(context)
        }
    }
    let rig = Rig::new();
    rig.enqueue(draft(0).max_attempts(2));
    let worker = rig.scripted(|context| async move {
        if context.message().attempt == 1 {
            retry("no")
        } else {
            Outcome::Done
        }
    });
    let report = rig.run(worker.register::<Careless>());
    assert_eq!((report.retried, report.done), (1, 1));
    assert!(
        rig.sim.elapsed() <= SECOND,
        "the default waits a second at most"
    );
}

#[test]
fn a_retry_policy_sees_the_error_and_may_give_up() {
    struct OnlyTransient;
    impl Handler for OnlyTransient {
        fn definition() -> Definition {
            Scripted::definition().retry(RetryPolicy::custom(|failed| {
                let transient = failed
                    .error
                    .downcast_ref::<Error>()
                    .is_some_and(Error::is_transient);
                transient.then_some(Duration::from_secs(2))
            }))
        }
        fn requires(_: &mut Requirements) {}
        fn call(context: Context) -> outbox_core::BoxFuture<'static, Outcome> {
            Scripted::call(context)
        }
    }
    let rig = Rig::new();
    rig.enqueue(draft(0));
    let worker = rig.scripted(|context| async move {
        let kind = if context.message().attempt == 1 {
            outbox_core::ErrorKind::Unavailable
        } else {
            outbox_core::ErrorKind::Storage
        };
        Failure::from(Error::new(kind, "test", "planned")).into_outcome()
    });
    let report = rig.run(worker.register::<OnlyTransient>());
    assert_eq!((report.started, report.retried, report.dead), (2, 1, 1));
}

#[test]
fn extractors_give_what_the_message_carries() {
    let rig = Rig::new();
    let id = rig.enqueue(draft(0).header("traceparent", "00-ab").max_attempts(4));
    let report = rig.run(rig.worker(move |context| async move {
        let headers = Headers::from_context(&context).expect("always there");
        assert_eq!(headers.get("traceparent"), Some("00-ab"));
        assert_eq!(MessageId::from_context(&context).expect("always there"), id);
        let attempt = Attempt::from_context(&context).expect("always there");
        let lease = Lease::from_context(&context).expect("always there");
        assert_eq!(u32::from(attempt.number), lease.fence());
        assert_eq!(attempt.is_last(), attempt.number == 4);
        let blocking = Blocking::from_context(&context).expect("always there");
        assert_eq!(blocking.run(|| 6 * 7).await.expect("it does not panic"), 42);
        if attempt.number < 3 {
            retry("again")
        } else {
            Outcome::Done
        }
    }));
    assert_eq!((report.panicked, report.retried, report.done), (0, 2, 1));
}

#[test]
fn blocking_code_that_panics_is_an_error_of_the_handler() {
    let rig = Rig::new();
    rig.enqueue(draft(0));
    let worker = rig.worker(|context| async move {
        let blocking = Blocking::from_context(&context).expect("always there");
        match blocking.run(|| panic!("in blocking code")).await {
            Ok(()) => Outcome::Done,
            Err(error) => Failure::dead(error).into_outcome(),
        }
    });
    // A runtime catches the panic; the caller of `run` learns of it by the dropped channel.
    rig.start(worker);
    rig.pass_with_panic(SECOND);
    assert_eq!(rig.memory().dead_letters()[0].reason, DeadReason::Rejected);
}

#[test]
fn a_panicking_observer_disturbs_nothing() {
    let rig = Rig::new();
    rig.enqueue_plain(2);
    let worker = rig
        .worker(|_| async { Outcome::Done })
        .observe(|_| panic!("in an observer"));
    assert_eq!(rig.run(worker).done, 2);
}

#[test]
fn a_script_is_data_like_any_other() {
    let rig = Rig::new();
    let worker = rig.bare_worker().register::<Scripted>();
    let error = worker.prepare().expect_err("there is no script");
    assert_eq!(error.kind(), outbox_core::ErrorKind::MissingData);
    assert!(error.to_string().contains(std::any::type_name::<Script>()));
    assert!(error.to_string().contains("`scripted` (support/mod.rs)"));
}
