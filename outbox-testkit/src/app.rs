#![doc = include_str!("../../docs/testing.md")]

mod enqueued;
mod message;

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use outbox_core::{
    DEFAULT_MAX_PAYLOAD_BYTES, DataMap, Error, Event, Handler, IntoDraft, MemoryDeadLetter,
    MemoryMessage, MemoryStorage, MessageId, NewMessage, Outcome, Report, Runtime, Storage, Worker,
    timeout,
};

#[doc(hidden)]
pub use enqueued::{assert_found, decode};
pub use message::TestMessage;

use crate::{FaultStorage, SimProcess, SimRuntime};

/// A message that was delivered this often goes on for ever.
const MOST_DELIVERIES: u32 = 1_000;
/// A handler that runs this long waits for something that never comes.
const LONGEST_RUN: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest poll a worker allows: in memory nothing has to be polled for.
const POLL: Duration = Duration::from_secs(60 * 60);

/// Handlers with a storage in memory and a clock of its own, for tests. No call waits for real
/// time: the clock jumps to where something happens.
///
/// All methods are synchronous and run the handlers on the calling thread. See [the module](self)
/// for how to test with it.
pub struct TestApp {
    sim: SimRuntime,
    memory: MemoryStorage,
    storage: FaultStorage,
    data: DataMap,
    queues: Vec<&'static str>,
    /// Each gives a new worker one value or handler.
    equip: Vec<Equip>,
    last_by_hand: AtomicI64,
}

type Equip = Box<dyn Fn(Worker) -> Worker>;

impl TestApp {
    /// An app without handlers, at time zero.
    #[must_use]
    pub fn new() -> Self {
        Self::with_seed(1)
    }

    /// The same, with another order in which handlers that are ready run.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        let sim = SimRuntime::new(seed);
        let memory = MemoryStorage::new();
        sim.drive(&memory);
        let storage = FaultStorage::new(Arc::new(memory.clone()), Arc::new(sim.clone()));
        Self {
            sim,
            memory,
            storage,
            data: DataMap::default(),
            queues: Vec::new(),
            equip: Vec::new(),
            last_by_hand: AtomicI64::new(1_000_000_000),
        }
    }

    /// Adds a value that handlers ask for as `Data<T>`.
    #[must_use]
    pub fn data<T: Send + Sync + 'static>(self, value: T) -> Self {
        self.shared_data(Arc::new(value))
    }

    /// Adds a value that the test shares with the handlers.
    #[must_use]
    pub fn shared_data<T: Send + Sync + 'static>(mut self, value: Arc<T>) -> Self {
        self.data.insert(Arc::clone(&value));
        self.equip.push(Box::new(move |worker| {
            worker.shared_data(Arc::clone(&value))
        }));
        self
    }

    /// Adds a handler.
    #[must_use]
    pub fn register<H: Handler>(mut self) -> Self {
        self.queues.push(H::definition().queue);
        self.equip.push(Box::new(Worker::register::<H>));
        self
    }

    /// Enqueues a message; `None` if a live one of its queue and key exists.
    ///
    /// # Panics
    /// When the message breaks a rule: its size, or a name in it.
    #[track_caller]
    pub fn enqueue(&self, message: impl IntoDraft) -> Option<MessageId> {
        let new = checked(message);
        // Not through the faults, which are for the worker.
        let written = self.sim.block_on(self.memory.enqueue(vec![new]));
        written.expect("memory does not fail")[0]
    }

    /// Something that enqueues into this app, for code that is given its producer.
    #[must_use]
    pub fn outbox(&self) -> TestOutbox {
        TestOutbox(self.memory.clone())
    }

    /// Runs handlers until no message is left for them, jumping to the time at which the next one is
    /// due, or a lease ends, whenever there is nothing to do now. Returns what happened.
    ///
    /// Messages of queues that no registered handler serves stay where they are.
    ///
    /// # Panics
    /// - When the worker would refuse to start: a handler asks for `Data<T>` that the app was not
    ///   given, for example.
    /// - When a message has a kind that no registered handler of its queue understands.
    /// - When a message was delivered 1,000 times, or a handler has run for a day: this would go on
    ///   for ever.
    #[track_caller]
    pub fn run_until_idle(&self) -> Report {
        let mut report = self.run_due();
        while let Some(next) = self.next_change() {
            let wait = next.duration_since(self.memory.now()).unwrap_or_default();
            self.advance(wait);
            report += self.run_due();
        }
        report
    }

    /// Runs handlers until nothing is left that is due now or leased, and leaves what is due later.
    ///
    /// # Panics
    /// As [`run_until_idle`](Self::run_until_idle).
    #[track_caller]
    pub fn run_due(&self) -> Report {
        let unknown = Arc::new(Mutex::new(None));
        let note = Arc::clone(&unknown);
        let worker = self.worker().observe(move |event| {
            if let Event::UnknownKind(about) = event {
                let kind = format!("{:?} of queue {:?}", about.kind, about.queue);
                *note.lock().unwrap_or_else(PoisonError::into_inner) = Some(kind);
            }
        });
        let worker = worker.run_until_idle(Duration::ZERO);
        let ended = self.sim.block_on(timeout(&self.sim, LONGEST_RUN, worker));
        let unknown = unknown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(kind) = unknown {
            panic!("no registered handler understands kind {kind}");
        }
        self.check_that_it_ends();
        match ended {
            Some(Ok(report)) => report,
            Some(Err(error)) => panic!("the worker does not run: {error}"),
            None => panic!(
                "a handler has run for a day of the app's time: it waits for something that is not \
                 on the simulated runtime, such as a socket or a timer of tokio"
            ),
        }
    }

    /// Runs handlers for this long and then shuts the worker down, as a deploy would.
    ///
    /// # Panics
    /// When the worker refuses to start.
    #[track_caller]
    pub fn run_for(&self, time: Duration) -> Report {
        let stop = self.sim.sleep(time);
        let ended = self.sim.block_on(self.worker().run_until(stop));
        ended.unwrap_or_else(|error| panic!("the worker does not run: {error}"))
    }

    /// Runs handlers for this long and then kills their process: nothing is settled or given back.
    /// What ran comes back when its lease ends, in the next run.
    ///
    /// # Panics
    /// When the worker refuses to start.
    #[track_caller]
    pub fn crash_after(&self, time: Duration) {
        let process = SimProcess::new(&self.sim);
        let worker = self.worker_on(Arc::new(process.clone())).prepare();
        let worker = worker.unwrap_or_else(|error| panic!("the worker does not run: {error}"));
        process.spawn(Box::pin(async move {
            // It is killed before it ends.
            let _ = worker.run().await;
        }));
        self.advance(time);
        process.kill();
    }

    /// Runs one handler on one message, without storage, worker or retries, and returns what it
    /// decided.
    ///
    /// # Panics
    /// When the handler panics, is not one for this message, or asks for `Data<T>` that the app was
    /// not given.
    #[track_caller]
    pub fn call<H: Handler>(&self, message: impl IntoDraft) -> Outcome {
        self.message::<H>(message).run()
    }

    /// A message that the test delivers to one handler by hand, as often as it likes: twice, or with
    /// a crash or the loss of its lease at some await. It is not enqueued.
    ///
    /// # Panics
    /// When the handler is not one for this message, or asks for `Data<T>` that the app was not
    /// given.
    #[track_caller]
    pub fn message<H: Handler>(&self, message: impl IntoDraft) -> TestMessage<'_> {
        let id = self.last_by_hand.fetch_add(1, Ordering::Relaxed);
        TestMessage::new::<H>(self, MessageId(id), checked(message))
    }

    /// Crashes a handler at each of its awaits in turn, each time on a new message from `draft`, and
    /// delivers that message once more, to its end. `check` then looks whether the work was done
    /// once. Returns how many awaits there were.
    ///
    /// # Panics
    /// As [`call`](Self::call).
    #[track_caller]
    pub fn crash_at_every_await<H: Handler, D: IntoDraft>(
        &self,
        mut draft: impl FnMut() -> D,
        mut check: impl FnMut(MessageId),
    ) -> usize {
        for awaits in 0..MOST_DELIVERIES as usize {
            let mut message = self.message::<H>(draft());
            let ended = message.crash_at(awaits);
            message.run();
            check(message.id());
            if ended.is_some() {
                return awaits;
            }
        }
        panic!("the handler awaits without end");
    }

    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        self.sim.block_on(self.sim.sleep(time));
    }

    /// All live messages: waiting, due later, and held by a worker that crashed.
    #[must_use]
    pub fn messages(&self) -> Vec<MemoryMessage> {
        self.memory.messages()
    }

    /// All dead letters, oldest first.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<MemoryDeadLetter> {
        self.memory.dead_letters()
    }

    /// The storage of the workers, to let its calls fail.
    #[must_use]
    pub const fn faults(&self) -> &FaultStorage {
        &self.storage
    }

    /// The runtime, for time and for tasks of the test's own.
    #[must_use]
    pub const fn runtime(&self) -> &SimRuntime {
        &self.sim
    }

    /// A worker with the handlers and data of this app, for tests that configure or observe it.
    pub fn worker(&self) -> Worker {
        self.worker_on(Arc::new(self.sim.clone()))
    }

    fn worker_on(&self, runtime: Arc<dyn Runtime>) -> Worker {
        let worker = Worker::new(Arc::new(self.storage.clone()), runtime);
        let worker = worker.poll_interval(POLL);
        self.equip
            .iter()
            .fold(worker, |worker, equip| equip(worker))
    }

    /// When a message that a handler is registered for is due, or its lease ends.
    fn next_change(&self) -> Option<SystemTime> {
        let messages = self.messages().into_iter();
        let served =
            messages.filter(|message| self.queues.iter().any(|queue| **queue == *message.queue));
        let change = |message: MemoryMessage| message.lease.map_or(message.due, |(_, end)| end);
        served.map(change).min()
    }

    fn check_that_it_ends(&self) {
        let messages = self.messages();
        let mut messages = messages.iter();
        if let Some(endless) = messages.find(|one| one.deliveries > MOST_DELIVERIES) {
            panic!(
                "message {} of kind {:?} was delivered {} times: a handler that always retries or \
                 snoozes is run with `run_due` or `run_for`",
                endless.id, endless.kind, endless.deliveries
            );
        }
    }
}

impl Default for TestApp {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TestApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestApp")
            .field("queues", &self.queues)
            .field("messages", &self.messages())
            .finish_non_exhaustive()
    }
}

/// Enqueues into a [`TestApp`]: a stand-in for a producer that code under test is given. Clones are
/// the same.
#[derive(Clone, Debug)]
pub struct TestOutbox(MemoryStorage);

impl TestOutbox {
    /// Enqueues a message; `None` if a live one of its queue and key exists. There is no transaction
    /// around it.
    ///
    /// # Errors
    /// The message breaks a rule, as with every producer.
    pub async fn enqueue(&self, message: impl IntoDraft) -> Result<Option<MessageId>, Error> {
        let new = message.into_draft().check(DEFAULT_MAX_PAYLOAD_BYTES)?;
        Ok(self.0.enqueue(vec![new]).await?[0])
    }
}

#[track_caller]
fn checked(message: impl IntoDraft) -> NewMessage {
    let checked = message.into_draft().check(DEFAULT_MAX_PAYLOAD_BYTES);
    checked.unwrap_or_else(|error| panic!("the message cannot be enqueued: {error}"))
}
