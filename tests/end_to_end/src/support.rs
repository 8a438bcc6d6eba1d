//! What the properties share: one leg of the suite, and a worker that runs beside the test.

use std::sync::Arc;
use std::time::Duration;

use futures_channel::mpsc::UnboundedSender;
use futures_channel::oneshot;
use outbox::limits::timeout;
use outbox::{Report, Runtime, Worker, WorkerHandle};

use crate::backend::Backend;

/// The longest a test waits for anything: far beyond what a loaded machine needs, so that only a
/// state that never comes is a failure.
const LIMIT: Duration = Duration::from_secs(90);

/// Longer than any test waits: what starts sooner was woken, or was due.
pub(crate) const POLL: Duration = Duration::from_secs(600);

/// What handlers tell the test.
pub(crate) type Teller = UnboundedSender<String>;

/// How often a test looks for what nobody tells it.
const LOOK: Duration = Duration::from_millis(10);

/// One runtime and one database.
pub struct Leg<B> {
    pub(crate) backend: Arc<B>,
    pub(crate) runtime: Arc<dyn Runtime>,
}

impl<B> Clone for Leg<B> {
    fn clone(&self) -> Self {
        Self {
            backend: Arc::clone(&self.backend),
            runtime: Arc::clone(&self.runtime),
        }
    }
}

impl<B: Backend> Leg<B> {
    /// A leg with a new database.
    pub async fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self {
            backend: Arc::new(B::new().await),
            runtime,
        }
    }

    pub(crate) async fn worker(&self) -> Worker {
        Worker::new(self.backend.storage().await, Arc::clone(&self.runtime))
    }

    /// Runs a worker until nothing is left for it.
    pub(crate) async fn run_until_idle(&self, worker: Worker) -> Report {
        let run = worker.run_until_idle(Duration::ZERO);
        let report = self.within("the worker is idle", run).await;
        report.expect("the worker ends well")
    }

    /// Starts a worker beside the test.
    pub(crate) fn start(&self, worker: Worker) -> Running {
        let prepared = worker.prepare().expect("the worker is configured well");
        let handle = prepared.handle();
        let (sender, ended) = oneshot::channel();
        self.runtime.spawn(Box::pin(async move {
            // The test is gone only if it has failed already.
            let _ = sender.send(prepared.run().await);
        }));
        Running { handle, ended }
    }

    /// Stops a worker and awaits its end.
    pub(crate) async fn stop(&self, worker: Running) -> Report {
        worker.handle.shutdown();
        self.within("the worker ends", worker.ended)
            .await
            .expect("the runtime runs it to its end")
            .expect("the worker ends well")
    }

    /// Awaits a state of the database or of a worker, by looking for it.
    pub(crate) async fn until<F>(&self, what: &str, is_there: impl Fn() -> F)
    where
        F: Future<Output = bool>,
    {
        let looks = async {
            while !is_there().await {
                self.runtime.sleep(LOOK).await;
            }
        };
        self.within(what, looks).await;
    }

    /// Awaits that a worker listens for wake-ups.
    pub(crate) async fn until_listening(&self) {
        self.until("it listens", || self.backend.has_listener())
            .await;
    }

    /// Awaits that a lease outlasts its first time.
    pub(crate) async fn until_renewed(&self, lease_ttl: Duration) {
        self.until("one is renewed", || self.backend.is_renewed(lease_ttl))
            .await;
    }

    /// Awaits what must come within the limit.
    pub(crate) async fn within<F: Future>(&self, what: &str, future: F) -> F::Output {
        timeout(&*self.runtime, LIMIT, future)
            .await
            .unwrap_or_else(|| panic!("waited {LIMIT:?} until {what}"))
    }
}

/// A worker that runs beside the test.
pub(crate) struct Running {
    pub(crate) handle: WorkerHandle,
    ended: oneshot::Receiver<Result<Report, outbox::Error>>,
}
