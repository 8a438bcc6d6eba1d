//! When a worker lets its storage tidy up, and what it makes of the answer.

mod support;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{
    Claim, ClaimRequest, Error, ErrorKind, Event, Housekeeping, MemoryStorage, MessageId,
    NewMessage, Outcome, Renewal, Renewed, Settled, Settlement, Storage, Worker,
};
use support::{Log, Rig, SECOND, Script, Scripted};

const MINUTE: Duration = Duration::from_secs(60);
const MILLISECOND: Duration = Duration::from_millis(1);

/// The memory storage, which writes down when it is asked to tidy up.
#[derive(Clone)]
struct Untidy {
    memory: MemoryStorage,
    calls: Log,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    /// How often it says that it is untidy.
    untidy: Arc<AtomicUsize>,
}

#[derive(Clone)]
enum Answer {
    Ready(Housekeeping),
    Fails,
    Panics,
    /// It never answers; what is dropped then is written down.
    Hangs,
}

#[async_trait]
impl Storage for Untidy {
    async fn enqueue(&self, messages: Vec<NewMessage>) -> Result<Vec<Option<MessageId>>, Error> {
        self.memory.enqueue(messages).await
    }
    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        self.memory.claim(request).await
    }
    async fn settle(&self, settlements: &[Settlement]) -> Result<Settled, Error> {
        self.memory.settle(settlements).await
    }
    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed, Error> {
        self.memory.renew(renewals).await
    }
    async fn housekeep(&self) -> Result<Housekeeping, Error> {
        self.calls.add("housekeep");
        let answer = self
            .answers
            .lock()
            .expect("no test panics here")
            .pop_front();
        match answer {
            None => Ok(Housekeeping::NotNeeded),
            Some(Answer::Ready(answer)) => Ok(answer),
            Some(Answer::Fails) => Err(Error::new(ErrorKind::Unavailable, "housekeep", "planned")),
            Some(Answer::Panics) => panic!("planned"),
            Some(Answer::Hangs) => {
                let _dropped = Dropped(self.calls.clone());
                std::future::pending().await
            }
        }
    }
    fn is_untidy(&self) -> bool {
        let less = |times: usize| times.checked_sub(1);
        self.untidy
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }
}

struct Dropped(Log);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.add("dropped");
    }
}

struct House {
    rig: Rig,
    storage: Untidy,
    events: Log,
}

impl House {
    fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        let rig = Rig::new();
        let storage = Untidy {
            memory: rig.memory().clone(),
            calls: Log::default(),
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            untidy: Arc::default(),
        };
        Self {
            rig,
            storage,
            events: Log::default(),
        }
    }

    fn worker(&self) -> Worker {
        let events = self.events.clone();
        let runtime = Arc::new(self.rig.sim.clone());
        Worker::new(Arc::new(self.storage.clone()), runtime)
            .data(Script(Box::new(|_| Box::pin(async { Outcome::Done }))))
            .register::<Scripted>()
            // It gets no hints, and does all of a minute within that.
            .poll_interval(MILLISECOND * 50)
            .observe(move |event| {
                if let Event::Housekept(done) = event {
                    events.add(format!("{done:?}"));
                }
            })
    }

    /// A message every second for a minute.
    fn work_for_a_minute(&self) {
        for _ in 0..60 {
            self.rig.enqueue_plain(1);
            self.rig.pass(SECOND);
        }
    }

    /// A message ten times a second.
    fn work_for_five_seconds(&self) {
        for _ in 0..50 {
            self.rig.enqueue_plain(1);
            self.rig.pass(MILLISECOND * 100);
        }
    }

    /// How often a worker that settles a message every second lets it tidy up in a minute.
    fn calls_in_a_minute(&self) -> usize {
        self.rig.start(self.worker());
        self.work_for_a_minute();
        self.calls()
    }

    fn calls(&self) -> usize {
        self.storage.calls.all().len()
    }
}

#[test]
fn a_worker_that_settles_lets_the_storage_tidy_up_every_five_seconds() {
    let house = House::new([]);
    // Each pause is of 4 to 6 seconds.
    let calls = house.calls_in_a_minute();
    assert!((10..=15).contains(&calls), "{calls}");
}

#[test]
fn an_untidy_storage_is_called_four_times_a_second() {
    let house = House::new([]);
    house.storage.untidy.store(20, Ordering::Relaxed);
    house.rig.start(house.worker());
    house.work_for_five_seconds();
    assert!((18..=20).contains(&house.calls()), "{}", house.calls());
    let before = house.calls();
    (0..6).for_each(|_| house.work_for_five_seconds());
    let calls = house.calls() - before;
    assert!((5..=8).contains(&calls), "tidy again: {calls}");
}

#[test]
fn a_second_in_which_nothing_was_settled_does_not_leave_a_storage_untidy_for_long() {
    let house = House::new([]);
    house.rig.start(house.worker());
    house.rig.pass(SECOND);
    let before = house.calls();
    house.storage.untidy.store(usize::MAX, Ordering::Relaxed);
    house.rig.enqueue_plain(1);
    house.rig.pass(MILLISECOND * 1_300);
    assert!(house.calls() > before);
}

#[test]
fn an_untidy_storage_that_fails_is_called_every_five_seconds() {
    let house = House::new(std::iter::repeat_n(Answer::Fails, 100));
    house.storage.untidy.store(100, Ordering::Relaxed);
    let calls = house.calls_in_a_minute();
    assert!((10..=16).contains(&calls), "{calls}");
}

#[test]
fn an_untidy_storage_is_not_asked_while_nothing_is_settled() {
    let house = House::new([]);
    house.storage.untidy.store(usize::MAX, Ordering::Relaxed);
    house.rig.start(house.worker());
    house.rig.enqueue_plain(3);
    house.rig.pass(MINUTE);
    assert_eq!(house.calls(), 1);
}

#[test]
fn a_worker_that_has_settled_nothing_since_asks_nothing() {
    let house = House::new([]);
    house.rig.start(house.worker());
    house.rig.pass(MINUTE);
    assert_eq!(house.calls(), 0);
    house.rig.enqueue_plain(3);
    house.rig.pass(MINUTE * 10);
    assert_eq!(house.calls(), 1);
}

#[test]
fn housekeeping_ends_with_the_worker_and_in_the_middle_of_a_call() {
    let house = House::new([Answer::Hangs]);
    let handle = house.rig.start(house.worker());
    house.work_for_a_minute();
    assert_eq!(house.storage.calls.all(), ["housekeep"]);
    handle.shutdown();
    house.rig.pass(SECOND);
    assert_eq!(house.storage.calls.all(), ["housekeep", "dropped"]);
    house.work_for_a_minute();
    assert_eq!(house.calls(), 2, "nothing after that");
}

#[test]
fn housekeeping_that_hangs_holds_up_nothing() {
    let house = House::new([Answer::Hangs]);
    let handle = house.rig.start(house.worker());
    house.work_for_a_minute();
    assert_eq!(handle.report().done, 60);
}

#[test]
fn what_was_done_is_told() {
    let done = Housekeeping::Done {
        took: SECOND,
        left: 7,
    };
    let answers = [
        Housekeeping::Elsewhere,
        done.clone(),
        Housekeeping::NotNeeded,
    ];
    let house = House::new(answers.map(Answer::Ready));
    house.rig.start(house.worker());
    house.work_for_a_minute();
    assert_eq!(house.events.all(), [format!("{done:?}")]);
}

#[test]
fn a_storage_that_may_not_tidy_up_is_told_once_and_not_asked_again() {
    let refused = Housekeeping::NotPermitted {
        advice: "own it".into(),
    };
    let house = House::new([Answer::Ready(refused.clone())]);
    let handle = house.rig.start(house.worker());
    house.work_for_a_minute();
    assert_eq!(house.calls(), 1);
    assert_eq!(house.events.all(), [format!("{refused:?}")]);
    assert_eq!(handle.report().done, 60);
    handle.shutdown();
    house.rig.pass(SECOND);
    assert_eq!(handle.health(), outbox_core::Health::Stopped);
}

#[test]
fn housekeeping_that_fails_or_panics_is_asked_again_and_harms_nothing() {
    let house = House::new([Answer::Fails, Answer::Panics]);
    let handle = house.rig.start(house.worker());
    house.work_for_a_minute();
    assert!(house.calls() >= 10);
    let report = handle.report();
    assert_eq!((report.done, report.storage_errors), (60, 2));
    assert_eq!(handle.health(), outbox_core::Health::Healthy);
}
