//! The worker: what a caller configures and runs. The loops behind it are one file each: `run`
//! owns the state, `claim` decides what to take, `execute` runs a handler, `verdict` says what
//! becomes of its message, `settle` keeps what is to be written, `heartbeat` renews leases,
//! `housekeeping` lets the storage tidy up, `shutdown` is the signal that ends them.

mod backoff;
mod claim;
mod execute;
mod heartbeat;
mod housekeeping;
mod rate;
mod registry;
mod run;
mod runners;
mod settle;
mod shutdown;
mod verdict;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, FutureExt, select};

use self::registry::Registry;
use self::run::{Agent, Ending};
use self::shutdown::Shutdown;
use crate::error::{Error, ErrorKind};
use crate::handler::{DataMap, Handler};
use crate::runtime::Runtime;
use crate::storage::Storage;
use crate::telemetry::{Event, Health, Observer, Report, Telemetry};

/// What a worker may be told about its pace. The defaults are meant to be fast.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) concurrency: usize,
    pub(crate) prefetch: usize,
    pub(crate) poll_interval: Duration,
    pub(crate) grace: Duration,
    pub(crate) storage_timeout: Duration,
    pub(crate) unknown_kind_delay: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrency: 100,
            prefetch: 900,
            poll_interval: Duration::from_secs(1),
            grace: Duration::from_secs(25),
            storage_timeout: Duration::from_secs(10),
            unknown_kind_delay: Duration::from_secs(30),
        }
    }
}

/// Claims messages, runs their handlers, and settles. Made by a runtime's crate
/// (`outbox::tokio::worker(storage)`), then configured and run.
#[must_use = "a worker does nothing until it runs"]
pub struct Worker {
    storage: Arc<dyn Storage>,
    runtime: Arc<dyn Runtime>,
    registry: Registry,
    data: DataMap,
    settings: Settings,
    observers: Vec<Box<Observer>>,
}

impl Worker {
    /// A worker on this storage and runtime, with nothing registered.
    pub fn new(storage: Arc<dyn Storage>, runtime: Arc<dyn Runtime>) -> Self {
        Self {
            storage,
            runtime,
            registry: Registry::default(),
            data: DataMap::default(),
            settings: Settings::default(),
            observers: Vec::new(),
        }
    }

    /// Adds a value that handlers ask for as `Data<T>`.
    pub fn data<T: Send + Sync + 'static>(self, value: T) -> Self {
        self.shared_data(Arc::new(value))
    }

    /// Adds a value that is shared already.
    pub fn shared_data<T: Send + Sync + 'static>(mut self, value: Arc<T>) -> Self {
        self.data.insert(value);
        self
    }

    /// Adds a handler; its queue is claimed from.
    pub fn register<H: Handler>(mut self) -> Self {
        self.registry.add::<H>();
        self
    }

    /// How many handlers run at once: 100 by default, at least 1.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.settings.concurrency = concurrency;
        self
    }

    /// How many messages may be leased before a slot is free for them: at most this many, 900 by
    /// default, and never more than recently ran in a tenth of a second, so that slow handlers do
    /// not hoard. 0 leases only what starts at once.
    pub fn prefetch(mut self, prefetch: usize) -> Self {
        self.settings.prefetch = prefetch;
        self
    }

    /// How long an idle worker waits before it looks again without a hint: 1 second by default,
    /// from 10 ms to 1 hour, varied by 20 % so that many workers do not look at once.
    pub fn poll_interval(mut self, poll_interval: Duration) -> Self {
        self.settings.poll_interval = poll_interval;
        self
    }

    /// How long running handlers may go on after the shutdown began: 25 seconds by default. Then
    /// they are cancelled and their messages given back. At most 24 hours.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// How long one call to the storage may take: 10 seconds by default, from 10 ms to 1 hour. A
    /// call that took longer is given up and repeated.
    pub fn storage_timeout(mut self, storage_timeout: Duration) -> Self {
        self.settings.storage_timeout = storage_timeout;
        self
    }

    /// After what time a message of a kind nobody here understands is offered again: 30 seconds
    /// by default, from 1 second to 24 hours. No attempt is charged; in a rolling deploy a newer
    /// worker takes it.
    pub fn unknown_kind_delay(mut self, unknown_kind_delay: Duration) -> Self {
        self.settings.unknown_kind_delay = unknown_kind_delay;
        self
    }

    /// Tells `observer` what the worker does. It must be quick; its panics are caught.
    pub fn observe(mut self, observer: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// Checks the configuration and the registered handlers.
    ///
    /// # Errors
    /// The kinds [`InvalidConfig`](ErrorKind::InvalidConfig),
    /// [`DuplicateHandler`](ErrorKind::DuplicateHandler) and
    /// [`MissingData`](ErrorKind::MissingData), naming the handler and what to change.
    pub fn prepare(self) -> Result<PreparedWorker, Error> {
        self.registry.check(&self.data)?;
        check_settings(&self.settings)?;
        Ok(PreparedWorker {
            storage: self.storage,
            runtime: self.runtime,
            registry: Arc::new(self.registry),
            data: Arc::new(self.data),
            settings: self.settings,
            telemetry: Arc::new(Telemetry::new(self.observers)),
            shutdown: Arc::new(Shutdown::default()),
        })
    }

    /// Runs until `shutdown` completes, then drains: claims no more, gives back what has not
    /// started, lets handlers finish within the grace period, and writes every outcome.
    ///
    /// # Errors
    /// Those of [`prepare`](Self::prepare), and a storage that cannot be used at all (its
    /// `check`). Errors that may pass never end a worker.
    ///
    /// # Cancellation
    /// Dropping the future shuts the worker down in the background without a grace period:
    /// handlers are cancelled and messages given back.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<Report, Error> {
        self.prepare()?.run_until(shutdown).await
    }

    /// Runs until its handle, or the end of the process, stops it.
    ///
    /// # Errors
    /// As [`run_until`](Self::run_until).
    pub async fn run(self) -> Result<Report, Error> {
        self.run_until(std::future::pending()).await
    }

    /// Runs until the served queues hold nothing that is due, leased by anybody, or due within
    /// `horizon`; then drains. For tools, tests and cron-like use.
    ///
    /// # Errors
    /// As [`run_until`](Self::run_until).
    pub async fn run_until_idle(self, horizon: Duration) -> Result<Report, Error> {
        self.prepare()?.run_until_idle(horizon).await
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("queues", &self.registry.queue_names())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// A worker whose configuration is in order. It can be watched and stopped through its
/// [`handle`](Self::handle).
#[must_use = "a worker does nothing until it runs"]
pub struct PreparedWorker {
    storage: Arc<dyn Storage>,
    runtime: Arc<dyn Runtime>,
    registry: Arc<Registry>,
    data: Arc<DataMap>,
    settings: Settings,
    telemetry: Arc<Telemetry>,
    shutdown: Arc<Shutdown>,
}

impl PreparedWorker {
    /// A handle to watch and stop it with.
    #[must_use]
    pub fn handle(&self) -> WorkerHandle {
        WorkerHandle {
            telemetry: Arc::clone(&self.telemetry),
            shutdown: Arc::clone(&self.shutdown),
        }
    }

    /// See [`Worker::run_until`].
    ///
    /// # Errors
    /// As [`Worker::run_until`].
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<Report, Error> {
        self.start(Ending::OnShutdown, shutdown).await
    }

    /// See [`Worker::run`].
    ///
    /// # Errors
    /// As [`Worker::run_until`].
    pub async fn run(self) -> Result<Report, Error> {
        self.run_until(std::future::pending()).await
    }

    /// See [`Worker::run_until_idle`].
    ///
    /// # Errors
    /// As [`Worker::run_until`].
    pub async fn run_until_idle(self, horizon: Duration) -> Result<Report, Error> {
        self.start(Ending::WhenIdle { horizon }, std::future::pending())
            .await
    }

    /// The agent is a task of the runtime and not a part of this future, so that dropping this
    /// future never drops a call to the storage: it asks the agent to stop instead.
    async fn start(
        self,
        ending: Ending,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Report, Error> {
        let handle = self.handle();
        let stop_if_dropped = StopIfDropped(handle.clone());
        let (sender, ended) = futures_channel::oneshot::channel();
        let runtime = Arc::clone(&self.runtime);
        let telemetry = Arc::clone(&self.telemetry);
        let agent = Agent::new(self, ending);
        runtime.spawn(Box::pin(async move {
            let report = match AssertUnwindSafe(agent.run()).catch_unwind().await {
                Ok(report) => report,
                // The heartbeat ends with the agent, and handlers end with this future.
                Err(panic) => Err(worker_panic(panic)),
            };
            // Here as well as below: handles live on when the caller drops the future.
            telemetry.set_health(Health::Stopped);
            // The receiver is gone if the caller dropped the future; then nobody wants to know.
            let _ = sender.send(report);
        }));
        let ended = match select(pin!(shutdown), ended).await {
            Either::Left(((), ended)) => {
                handle.shutdown();
                ended.await
            }
            Either::Right((ended, _)) => ended,
        };
        drop(stop_if_dropped);
        handle.telemetry.set_health(Health::Stopped);
        ended.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Runtime,
                "run",
                "the runtime ended before the worker did",
            ))
        })
    }
}

impl fmt::Debug for PreparedWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedWorker")
            .field("queues", &self.registry.queue_names())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Watches and stops a worker.
#[derive(Clone)]
pub struct WorkerHandle {
    telemetry: Arc<Telemetry>,
    shutdown: Arc<Shutdown>,
}

impl WorkerHandle {
    /// Begins the shutdown; a second call changes nothing.
    pub fn shutdown(&self) {
        self.shutdown.drain();
    }

    /// Counts since the start.
    #[must_use]
    pub fn report(&self) -> Report {
        self.telemetry.counters.report()
    }

    /// How the worker is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.telemetry.health()
    }
}

impl fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHandle")
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

struct StopIfDropped(WorkerHandle);

impl Drop for StopIfDropped {
    fn drop(&mut self) {
        self.0.shutdown.cancel();
    }
}

fn worker_panic(panic: Box<dyn Any + Send>) -> Error {
    let message = format!("the worker panicked: {}", verdict::panic_message(panic));
    Error::new(ErrorKind::Runtime, "run", message)
        .with_advice("this is a bug in outbox, in its storage or in its runtime: report it")
}

fn check_settings(settings: &Settings) -> Result<(), Error> {
    let refuse = |message: String| Err(Error::new(ErrorKind::InvalidConfig, "run", message));
    if settings.concurrency == 0 {
        return refuse("concurrency is 0; at least one handler must be able to run".to_owned());
    }
    let hour = Duration::from_secs(3600);
    for (name, value, least, most) in [
        (
            "poll_interval",
            settings.poll_interval,
            Duration::from_millis(10),
            hour,
        ),
        ("grace", settings.grace, Duration::ZERO, hour * 24),
        (
            "storage_timeout",
            settings.storage_timeout,
            Duration::from_millis(10),
            hour,
        ),
        (
            "unknown_kind_delay",
            settings.unknown_kind_delay,
            Duration::from_secs(1),
            hour * 24,
        ),
    ] {
        if !(least..=most).contains(&value) {
            return refuse(format!(
                "{name} is {value:?}, and must be from {least:?} to {most:?}"
            ));
        }
    }
    Ok(())
}
