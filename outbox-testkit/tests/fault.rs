//! Each fault is what it says it is, plans and seeds repeat, and a storage behind a network that
//! only delays keeps every rule.

use std::sync::Arc;
use std::time::Duration;

use outbox_core::{
    Claim, ClaimRequest, Error, MemoryStorage, NewMessage, QueueLease, Renewal, Runtime,
    Settlement, Source, Storage, Verdict, timeout,
};
use outbox_testkit::conformance::MemorySubject;
use outbox_testkit::{
    Fault, FaultStorage, Odds, Operation, SimRuntime, drop_after, drop_at_every_await,
};

const SECOND: Duration = Duration::from_secs(1);

mod without_faults {
    use super::*;

    outbox_testkit::conformance_suite!(subject(), block_on = block_on);

    fn subject() -> MemorySubject {
        MemorySubject::wrapped(|memory, sim| {
            Arc::new(FaultStorage::new(Arc::new(memory), Arc::new(sim)))
        })
    }
}

mod on_a_slow_network {
    use super::*;

    outbox_testkit::conformance_suite!(subject(), block_on = block_on);

    fn subject() -> MemorySubject {
        let mut slow = Odds::NEVER.longest(Duration::from_millis(200));
        slow.delay = 0.5;
        slow.slow_reply = 0.5;
        MemorySubject::wrapped(|memory, sim| {
            Arc::new(FaultStorage::seeded(
                Arc::new(memory),
                Arc::new(sim),
                7,
                slow,
            ))
        })
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    SimRuntime::new(1).block_on(future)
}

struct Rig {
    sim: SimRuntime,
    memory: MemoryStorage,
    storage: FaultStorage,
}

impl Rig {
    fn new() -> Self {
        Self::seeded(0, Odds::NEVER)
    }

    fn seeded(seed: u64, odds: Odds) -> Self {
        let sim = SimRuntime::new(1);
        let memory = MemoryStorage::new();
        let runtime = Arc::new(sim.clone());
        let storage = FaultStorage::seeded(Arc::new(memory.clone()), runtime, seed, odds);
        Self {
            sim,
            memory,
            storage,
        }
    }

    fn planned(fault: Fault) -> Self {
        let rig = Self::new();
        rig.storage.plan(Operation::Enqueue, [fault]);
        rig
    }

    /// Enqueues one message; `None` if there is no answer within a minute.
    fn enqueue(&self) -> Option<Result<(), Error>> {
        let call = self.storage.enqueue(vec![NewMessage::new("q", "k", *b"1")]);
        let answer = self.sim.block_on(timeout(&self.sim, SECOND * 60, call));
        answer.map(|answer| answer.map(drop))
    }

    fn stored(&self) -> usize {
        self.memory.messages().len()
    }

    fn claim(&self) -> Result<Claim, Error> {
        let queue = QueueLease::new("q", SECOND * 30);
        let request = ClaimRequest::new(vec![queue], 1, Source::Pending);
        self.sim.block_on(self.storage.claim(&request))
    }
}

#[test]
fn a_call_that_fails_before_has_no_effect() {
    let rig = Rig::planned(Fault::Before);
    let error = rig.enqueue().expect("it answers").expect_err("it fails");
    assert!(error.is_transient());
    assert_eq!(rig.stored(), 0);
    assert!(
        rig.enqueue().expect("it answers").is_ok(),
        "one was planned"
    );
    assert_eq!((rig.stored(), rig.storage.struck()), (1, 1));
}

#[test]
fn a_call_that_fails_after_has_taken_effect() {
    let rig = Rig::planned(Fault::After);
    let error = rig.enqueue().expect("it answers").expect_err("it fails");
    assert!(error.is_transient());
    assert_eq!(rig.stored(), 1);
}

#[test]
fn a_refused_call_is_no_transient_error() {
    let rig = Rig::planned(Fault::Refuse);
    let error = rig.enqueue().expect("it answers").expect_err("it fails");
    assert!(!error.is_transient());
    assert_eq!(rig.stored(), 0);
}

#[test]
fn a_call_that_hangs_never_answers_with_or_without_its_effect() {
    let rig = Rig::planned(Fault::Hang);
    assert!(rig.enqueue().is_none());
    assert_eq!(rig.stored(), 0);
    let rig = Rig::planned(Fault::HangAfter);
    assert!(rig.enqueue().is_none());
    assert_eq!(rig.stored(), 1);
}

#[test]
fn a_delayed_call_takes_effect_late_even_when_its_caller_has_gone() {
    let rig = Rig::planned(Fault::Delay(SECOND * 5));
    assert!(rig.enqueue().expect("it answers").is_ok());
    assert_eq!((rig.sim.elapsed(), rig.stored()), (SECOND * 5, 1));

    let rig = Rig::planned(Fault::Delay(SECOND * 5));
    let call = rig.storage.enqueue(vec![NewMessage::new("q", "k", *b"1")]);
    let given_up = rig.sim.block_on(timeout(&rig.sim, SECOND, call));
    assert!(given_up.is_none());
    assert_eq!(rig.stored(), 0, "on its way");
    rig.sim.block_on(rig.sim.sleep(SECOND * 5));
    assert_eq!(rig.stored(), 1);
}

#[test]
fn a_slow_reply_comes_after_its_effect() {
    let rig = Rig::planned(Fault::SlowReply(SECOND * 5));
    let call = rig.storage.enqueue(vec![NewMessage::new("q", "k", *b"1")]);
    let given_up = rig.sim.block_on(timeout(&rig.sim, SECOND, call));
    assert!(given_up.is_none());
    assert_eq!(rig.stored(), 1);
}

#[test]
fn a_duplicate_takes_effect_twice() {
    let rig = Rig::planned(Fault::Duplicate);
    assert!(rig.enqueue().expect("it answers").is_ok());
    assert_eq!(rig.stored(), 2);
    rig.storage.plan(Operation::Claim, [Fault::Duplicate]);
    assert_eq!(rig.claim().expect("it answers").messages.len(), 1);
    let held = |message: &outbox_core::MemoryMessage| message.lease.is_some();
    assert!(rig.memory.messages().iter().all(held), "both are leased");
}

#[test]
fn each_operation_has_a_plan_of_its_own_and_an_exchange_uses_two() {
    let rig = Rig::new();
    assert!(rig.enqueue().expect("it answers").is_ok());
    let claimed = rig.claim().expect("it answers").messages.remove(0);
    let queue = QueueLease::new("q", SECOND * 30);
    let request = ClaimRequest::new(vec![queue], 1, Source::Pending);
    let done = [Settlement::new(claimed.held(), Verdict::Done)];
    rig.storage
        .plan(Operation::Settle, [Fault::None, Fault::Before]);
    rig.storage
        .plan(Operation::Claim, [Fault::Before, Fault::None]);
    rig.storage.plan(Operation::Renew, [Fault::Before]);
    rig.storage.plan(Operation::Check, [Fault::Before]);
    rig.sim.block_on(async {
        let first = rig.storage.exchange(&done, &request).await;
        assert!(first.settled.is_ok() && first.claim.is_err());
        let second = rig.storage.exchange(&done, &request).await;
        assert!(second.settled.is_err() && second.claim.is_ok());
        // Without settlements nothing is settled, and no plan of a settle is used.
        rig.storage.plan(Operation::Settle, [Fault::Before]);
        let third = rig.storage.exchange(&[], &request).await;
        assert!(third.settled.is_ok() && third.claim.is_ok());
        assert!(rig.storage.settle(&done).await.is_err());
        let renewal = Renewal::new(claimed.held(), SECOND);
        assert!(rig.storage.renew(&[renewal]).await.is_err());
        assert!(rig.storage.check().await.is_err());
    });
    assert_eq!(rig.storage.struck(), 5);
}

#[test]
fn healing_ends_what_is_planned_and_what_the_seed_does() {
    let mut always = Odds::NEVER;
    always.before = 1.0;
    let rig = Rig::seeded(1, always);
    assert!(rig.enqueue().expect("it answers").is_err());
    rig.storage.plan(Operation::Enqueue, [Fault::Refuse]);
    rig.storage.heal();
    assert!(rig.enqueue().expect("it answers").is_ok());
    assert_eq!(rig.storage.struck(), 1);
}

#[test]
fn the_seed_decides_which_calls_go_wrong_and_how() {
    let history = |seed| {
        let rig = Rig::seeded(seed, Odds::each(0.1));
        let answer = |_| {
            let answer = rig.enqueue().map(|answer| answer.is_ok());
            (answer, rig.stored(), rig.sim.elapsed())
        };
        (0..100).map(answer).collect::<Vec<_>>()
    };
    assert_eq!(history(1), history(1));
    assert_ne!(history(1), history(2));
    let rig = Rig::seeded(3, Odds::each(0.1));
    for _ in 0..1_000 {
        let _ = rig.enqueue();
    }
    // Seven faults of one in ten.
    assert!(
        (600..800).contains(&rig.storage.struck()),
        "{}",
        rig.storage.struck()
    );
}

#[test]
fn a_future_is_dropped_after_so_many_polls() {
    let sim = SimRuntime::new(1);
    let two_sleeps = || async {
        sim.sleep(SECOND).await;
        sim.sleep(SECOND).await;
        7
    };
    assert_eq!(sim.block_on(drop_after(0, two_sleeps())), None);
    assert_eq!(sim.elapsed(), Duration::ZERO);
    assert_eq!(sim.block_on(drop_after(2, two_sleeps())), None);
    assert_eq!(sim.elapsed(), SECOND);
    assert_eq!(sim.block_on(drop_after(3, two_sleeps())), Some(7));
}

#[test]
#[should_panic(expected = "waits more than")]
fn a_future_without_an_end_is_not_dropped_for_ever() {
    let endless = async || {
        std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            std::task::Poll::<()>::Pending
        })
        .await;
    };
    block_on(drop_at_every_await(endless, async |_| {}));
}
