//! The smol runtime for outbox workers, and nothing else: spawning, sleeping, and a thread of its
//! own for the heartbeat.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # async fn example(storage: Arc<dyn outbox_core::Storage>) -> Result<(), outbox_core::Error> {
//! outbox_smol::shared_worker(storage).run().await?;
//! # Ok(()) }
//! ```
//!
//! smol's global executor has one thread, or as many as the environment variable `SMOL_THREADS`
//! says. A handler that blocks a thread blocks it for every other task there; give the worker an
//! executor of your own with more threads, or blocking code to `Blocking`. Leases do not depend on
//! it: the heartbeat has its own thread. Timers and sockets are those of async-io, one reactor for
//! the process, which a thread of its own drives when no other does.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use outbox_core::{Runtime, Storage, Worker};
use smol::{Executor, Timer};

/// smol's global executor, or one of the caller's.
#[derive(Clone, Debug, Default)]
pub struct SmolRuntime {
    own: Option<Weak<Executor<'static>>>,
}

impl SmolRuntime {
    /// The global executor.
    #[must_use]
    pub const fn global() -> Self {
        Self { own: None }
    }

    /// An executor that the caller runs, on as many threads as it likes.
    ///
    /// It stays the caller's: with its last `Arc` its tasks are dropped, and a worker that has
    /// not ended by then ends with an error. A worker on an executor that nobody runs waits.
    #[must_use]
    pub fn new(executor: &Arc<Executor<'static>>) -> Self {
        Self {
            // Tasks hold their runtime: a strong one would keep the executor alive from inside.
            own: Some(Arc::downgrade(executor)),
        }
    }
}

impl Runtime for SmolRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        match &self.own {
            None => smol::spawn(task).detach(),
            Some(own) => {
                // Without its executor the task is dropped, as all others of it were.
                if let Some(executor) = own.upgrade() {
                    executor.spawn(task).detach();
                }
            }
        }
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let timer = Timer::after(duration);
        Box::pin(async move {
            timer.await;
        })
    }

    fn spawn_thread(&self, name: &str, task: BoxFuture<'static, ()>) -> io::Result<()> {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(|| smol::block_on(task))?;
        Ok(())
    }

    fn spawn_blocking(&self, task: Box<dyn FnOnce() + Send>) {
        smol::unblock(task).detach();
    }
}

/// A worker on this storage and smol's global executor. For an executor of your own:
/// `Worker::new(storage, Arc::new(SmolRuntime::new(&executor)))`.
pub fn worker(storage: impl Storage) -> Worker {
    shared_worker(Arc::new(storage))
}

/// The same, on a storage that is shared already.
pub fn shared_worker(storage: Arc<dyn Storage>) -> Worker {
    Worker::new(storage, Arc::new(SmolRuntime::global()))
}
