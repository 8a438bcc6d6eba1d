//! The tokio runtime for outbox workers, and nothing else: spawning, sleeping, and a thread of
//! its own for the heartbeat.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # async fn example(storage: Arc<dyn outbox_core::Storage>) -> Result<(), outbox_core::Error> {
//! outbox_tokio::shared_worker(storage).run().await?;
//! # Ok(()) }
//! ```

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use outbox_core::{Runtime, Storage, Worker};
use tokio::runtime::Handle;

/// A tokio runtime: the one that was entered when this was made.
#[derive(Clone, Debug)]
pub struct TokioRuntime(Handle);

impl TokioRuntime {
    /// The runtime of the caller.
    ///
    /// # Panics
    /// Outside a tokio runtime; it is a mistake in the program and not a state it can meet.
    #[must_use]
    pub fn current() -> Self {
        Self(Handle::current())
    }

    /// The runtime of this handle.
    #[must_use]
    pub const fn new(handle: Handle) -> Self {
        Self(handle)
    }
}

impl Runtime for TokioRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.spawn(task);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn spawn_thread(&self, name: &str, task: BoxFuture<'static, ()>) -> std::io::Result<()> {
        let own = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || own.block_on(task))?;
        Ok(())
    }

    fn parallelism(&self) -> usize {
        self.0.metrics().num_workers()
    }

    fn spawn_blocking(&self, task: Box<dyn FnOnce() + Send>) {
        self.0.spawn_blocking(task);
    }
}

/// A worker on this storage and the caller's tokio runtime.
///
/// # Panics
/// Outside a tokio runtime.
pub fn worker(storage: impl Storage) -> Worker {
    shared_worker(Arc::new(storage))
}

/// The same, on a storage that is shared already.
///
/// # Panics
/// Outside a tokio runtime.
pub fn shared_worker(storage: Arc<dyn Storage>) -> Worker {
    Worker::new(storage, Arc::new(TokioRuntime::current()))
}
