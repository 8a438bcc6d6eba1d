//! A worker on the memory storage and the simulated runtime, a handler that a test scripts, and
//! a storage whose calls fail as a test says.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{
    BoxFuture, BoxStream, Claim, ClaimRequest, Context, Data, Definition, Draft, Error, ErrorKind,
    Event, Handler, Held, IntoDraft, MemoryStorage, MessageId, NewMessage, Outcome, Renewal,
    Renewed, Report, Requirements, RetryPolicy, Runtime, Settlement, Source, Storage, Worker,
    WorkerHandle,
};
use outbox_testkit::SimRuntime;

pub const SECOND: Duration = Duration::from_secs(1);

/// What the scripted handlers do.
pub struct Script(pub Box<dyn Fn(Context) -> BoxFuture<'static, Outcome> + Send + Sync>);

/// Handles kind `k` of queue `q` by the script, with a lease of 30 seconds and a fixed retry of
/// 10 seconds.
pub struct Scripted;

impl Handler for Scripted {
    fn definition() -> Definition {
        Definition::new("scripted", "q")
            .kinds(vec!["k".into()])
            .retry(RetryPolicy::Fixed(SECOND * 10))
            .location("support/mod.rs")
    }
    fn requires(requirements: &mut Requirements) {
        requirements.data::<Script>();
    }
    fn call(context: Context) -> BoxFuture<'static, Outcome> {
        let script = context.data().find::<Script>().expect("the rig adds it");
        (script.0)(context)
    }
}

/// The same with a limit of 5 seconds.
pub struct Limited;

impl Handler for Limited {
    fn definition() -> Definition {
        Scripted::definition().timeout(SECOND * 5)
    }
    fn requires(_: &mut Requirements) {}
    fn call(context: Context) -> BoxFuture<'static, Outcome> {
        Scripted::call(context)
    }
}

/// Things that happened, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn add(&self, what: impl Into<String>) {
        self.0
            .lock()
            .expect("no test panics here")
            .push(what.into());
    }
    pub fn all(&self) -> Vec<String> {
        self.0.lock().expect("no test panics here").clone()
    }
    pub fn count(&self, what: &str) -> usize {
        self.all().iter().filter(|entry| *entry == what).count()
    }
}

/// How a call to the storage goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It goes right.
    None,
    /// It fails, and nothing happened.
    Before,
    /// It takes effect, and its reply is lost.
    After,
    /// It takes effect, and answers after two seconds.
    Late,
    /// It never answers, and nothing happened.
    Hang,
    /// It panics.
    Panic,
    /// It is refused for good.
    Refused,
    /// The storage lets nobody in.
    NoEntry,
}

/// The memory storage, with faults.
#[derive(Clone)]
pub struct Faulty {
    pub memory: MemoryStorage,
    pub log: Log,
    pub claims: Arc<Mutex<VecDeque<Fault>>>,
    pub settles: Arc<Mutex<VecDeque<Fault>>>,
    pub renews: Arc<Mutex<VecDeque<Fault>>>,
    pub checks: Arc<Mutex<VecDeque<Fault>>>,
    pub tokens: Arc<Mutex<Vec<(outbox_core::LeaseToken, bool)>>>,
    /// The hints it gives instead of the memory storage's.
    pub hints: Option<fn() -> BoxStream<'static, ()>>,
    /// A settle that holds this message and others is refused as a whole.
    pub refuse: Arc<Mutex<Option<MessageId>>>,
    /// Somebody keeps these messages locked: a settle of one waits a second for it, and then
    /// answers that it is busy.
    pub busy: Arc<Mutex<Vec<MessageId>>>,
    /// A settle of more messages than this fails before it takes effect.
    pub too_heavy: Arc<Mutex<Option<usize>>>,
    /// A settle that holds this message fails before it takes effect, every time.
    pub poison: Arc<Mutex<Option<MessageId>>>,
    /// A claim of more messages than this takes effect and never answers.
    pub too_many: Arc<Mutex<Option<usize>>>,
    /// Every claim of expired leases is refused for good.
    pub cannot_reclaim: Arc<Mutex<bool>>,
    /// How many exchanges a worker may have under way.
    pub concurrent_exchanges: usize,
    /// How many of those are worth it; all of them if it says nothing.
    pub worthwhile_exchanges: Arc<Mutex<Option<usize>>>,
}

impl Faulty {
    pub fn new(memory: MemoryStorage) -> Self {
        Self {
            memory,
            log: Log::default(),
            claims: Arc::default(),
            settles: Arc::default(),
            renews: Arc::default(),
            checks: Arc::default(),
            tokens: Arc::default(),
            hints: None,
            refuse: Arc::default(),
            busy: Arc::default(),
            too_heavy: Arc::default(),
            poison: Arc::default(),
            too_many: Arc::default(),
            cannot_reclaim: Arc::default(),
            concurrent_exchanges: 1,
            worthwhile_exchanges: Arc::default(),
        }
    }
}

pub fn plan(faults: &Arc<Mutex<VecDeque<Fault>>>, planned: impl IntoIterator<Item = Fault>) {
    faults.lock().expect("no test panics here").extend(planned);
}

async fn apply<T>(
    faults: &Arc<Mutex<VecDeque<Fault>>>,
    operation: &'static str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let fault = faults.lock().expect("no test panics here").pop_front();
    let unavailable = || Error::new(ErrorKind::Unavailable, operation, "planned");
    match fault.unwrap_or(Fault::None) {
        Fault::None => call.await,
        Fault::Before => Err(unavailable()),
        Fault::After => {
            call.await?;
            Err(unavailable())
        }
        Fault::Late => {
            let answer = call.await;
            let sim = SimRuntime::current().expect("it runs on the simulated runtime");
            sim.sleep(SECOND * 2).await;
            answer
        }
        Fault::Hang => std::future::pending().await,
        Fault::Panic => panic!("planned"),
        Fault::NoEntry => Err(Error::new(ErrorKind::InvalidConfig, operation, "planned")),
        Fault::Refused => Err(Error::new(ErrorKind::Storage, operation, "planned")),
    }
}

#[async_trait]
impl Storage for Faulty {
    async fn check(&self) -> Result<(), Error> {
        apply(&self.checks, "check", self.memory.check()).await
    }
    async fn enqueue(&self, messages: Vec<NewMessage>) -> Result<Vec<Option<MessageId>>, Error> {
        self.memory.enqueue(messages).await
    }
    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        self.log.add(format!("claim {:?}", request.source));
        self.tokens
            .lock()
            .expect("no test panics here")
            .push((request.token, request.resume));
        let cannot_reclaim = *self.cannot_reclaim.lock().expect("no test panics here");
        if cannot_reclaim && request.source == Source::Expired {
            return Err(Error::new(ErrorKind::Storage, "claim", "planned"));
        }
        let too_many = *self.too_many.lock().expect("no test panics here");
        if too_many.is_some_and(|most| request.limit > most) {
            self.memory.claim(request).await?;
            return std::future::pending().await;
        }
        apply(&self.claims, "claim", self.memory.claim(request)).await
    }
    async fn settle(&self, settlements: &[Settlement]) -> Result<outbox_core::Settled, Error> {
        self.log.add(format!("settle {}", settlements.len()));
        let refuse = *self.refuse.lock().expect("no test panics here");
        if settlements
            .iter()
            .any(|settlement| Some(settlement.id) == refuse)
        {
            return Err(Error::new(ErrorKind::Storage, "settle", "planned"));
        }
        let too_heavy = *self.too_heavy.lock().expect("no test panics here");
        let poison = *self.poison.lock().expect("no test panics here");
        if too_heavy.is_some_and(|most| settlements.len() > most)
            || settlements.iter().any(|one| Some(one.id) == poison)
        {
            return Err(Error::new(ErrorKind::Unavailable, "settle", "planned"));
        }
        let busy = self.busy.lock().expect("no test panics here").clone();
        let is_busy = |one: &&Settlement| busy.contains(&one.id);
        let (busy, free): (Vec<&Settlement>, Vec<_>) = settlements.iter().partition(is_busy);
        if !busy.is_empty() {
            let sim = SimRuntime::current().expect("it runs on the simulated runtime");
            sim.sleep(SECOND).await;
        }
        let free: Vec<Settlement> = free.into_iter().cloned().collect();
        let mut settled = apply(&self.settles, "settle", self.memory.settle(&free)).await?;
        settled.busy = busy.into_iter().map(|one| one.id).collect();
        Ok(settled)
    }
    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed, Error> {
        self.log.add(format!("renew {}", renewals.len()));
        apply(&self.renews, "renew", self.memory.renew(renewals)).await
    }
    fn concurrent_exchanges(&self) -> usize {
        self.concurrent_exchanges
    }
    fn worthwhile_exchanges(&self) -> usize {
        let worthwhile = *self
            .worthwhile_exchanges
            .lock()
            .expect("no test panics here");
        worthwhile.unwrap_or(self.concurrent_exchanges)
    }
    fn wake_ups(&self, queues: Vec<Arc<str>>, runtime: Arc<dyn Runtime>) -> BoxStream<'static, ()> {
        match self.hints {
            Some(hints) => hints(),
            None => self.memory.wake_ups(queues, runtime),
        }
    }
}

/// A simulated process world: one storage, any number of workers.
pub struct Rig {
    pub sim: SimRuntime,
    pub storage: Faulty,
    pub events: Log,
}

impl Rig {
    pub fn new() -> Self {
        let sim = SimRuntime::new(1);
        let memory = MemoryStorage::new();
        sim.drive(&memory);
        Self {
            sim,
            storage: Faulty::new(memory),
            events: Log::default(),
        }
    }

    pub fn memory(&self) -> &MemoryStorage {
        &self.storage.memory
    }

    pub fn enqueue(&self, draft: impl IntoDraft) -> MessageId {
        let new = draft.into_draft().check(1024).expect("a valid draft");
        let ids = self.sim.block_on(self.memory().enqueue(vec![new]));
        ids.expect("memory does not fail")[0].expect("no duplicate")
    }

    pub fn enqueue_plain(&self, count: usize) -> Vec<MessageId> {
        (0..count)
            .map(|number| self.enqueue(draft(number)))
            .collect()
    }

    /// A worker without handlers, whose events go to the rig's log.
    pub fn bare_worker(&self) -> Worker {
        let events = self.events.clone();
        Worker::new(Arc::new(self.storage.clone()), Arc::new(self.sim.clone()))
            .observe(move |event| events.add(name(event)))
    }

    /// A worker whose handler does what the script says.
    pub fn worker<F>(&self, script: impl Fn(Context) -> F + Send + Sync + 'static) -> Worker
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        self.scripted(script).register::<Scripted>()
    }

    /// The same, with the handler still to be registered.
    pub fn scripted<F>(&self, script: impl Fn(Context) -> F + Send + Sync + 'static) -> Worker
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        self.bare_worker()
            .data(Script(Box::new(move |context| Box::pin(script(context)))))
    }

    /// Runs a worker until there is nothing left to do within a day.
    pub fn run(&self, worker: Worker) -> Report {
        self.sim
            .block_on(worker.run_until_idle(SECOND * 86_400))
            .expect("the worker is configured")
    }

    /// Runs a worker for a time and shuts it down.
    pub fn run_for(&self, worker: Worker, time: Duration) -> Report {
        let sleep = self.sim.sleep(time);
        self.sim
            .block_on(worker.run_until(sleep))
            .expect("the worker is configured")
    }

    /// Runs a worker for a time and then kills its process: nothing of it runs on, and nothing is
    /// given back.
    pub fn run_and_kill(&self, worker: Worker, time: Duration) {
        self.start(worker);
        self.pass(time);
        self.sim.kill_spawned();
    }

    /// Starts a worker that runs whenever time passes, until its handle stops it.
    pub fn start(&self, worker: Worker) -> WorkerHandle {
        let worker = worker.prepare().expect("the worker is configured");
        let handle = worker.handle();
        self.sim.spawn(Box::pin(async move {
            let ended = worker.run_until(std::future::pending()).await;
            ended.expect("the storage can be used");
        }));
        handle
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        self.sim.block_on(self.sim.sleep(time));
    }

    /// Lets time pass while one task panics, which the simulated runtime lets through and a real
    /// one would catch.
    pub fn pass_with_panic(&self, time: Duration) {
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.pass(time)));
        assert!(passed.is_err(), "a task must panic");
        self.pass(time);
    }

    /// Another process claims what it can, with a lease of a minute.
    pub fn steal(&self, source: outbox_core::Source) -> Vec<Held> {
        let request = ClaimRequest::new(
            vec![outbox_core::QueueLease::new("q", SECOND * 60)],
            100,
            source,
        );
        let claim = self.sim.block_on(self.memory().claim(&request));
        claim
            .expect("memory does not fail")
            .messages
            .iter()
            .map(outbox_core::Claimed::held)
            .collect()
    }
}

pub fn draft(number: usize) -> Draft {
    Draft::json("q", "k", &number)
}

/// The number a plain message carries.
pub fn number(context: &Context) -> usize {
    context.decode().expect("a plain message")
}

pub fn retry(error: &'static str) -> Outcome {
    Outcome::Retry {
        after: None,
        error: error.into(),
    }
}

/// The shared value of a handler.
pub fn data<T: Send + Sync + 'static>(context: &Context) -> Data<T> {
    Data(context.data().find().expect("the test adds it"))
}

fn name(event: &Event<'_>) -> String {
    match event {
        Event::Claimed { source, count, .. } => format!("claimed {count} {source:?}"),
        Event::Started(about) => format!("started {}", about.id),
        Event::Settled {
            message, written, ..
        } => format!("settled {} {written:?}", message.id),
        Event::DeadLettered { message, reason } => format!("dead {} {reason}", message.id),
        Event::LeaseLost { message, phase } => format!("lost {} {phase:?}", message.id),
        Event::Unresolved(about) => format!("unresolved {}", about.id),
        Event::UnknownKind(about) => format!("unknown {}", about.kind),
        Event::StorageFailed { failures, .. } => format!("failed {failures}"),
        Event::StorageRecovered { failures } => format!("recovered {failures}"),
        Event::DrainTimedOut { running } => format!("drain timed out {running}"),
        other => format!("{other:?}"),
    }
}
