//! The async-std runtime for outbox workers, and nothing else: spawning, sleeping, and a thread of
//! its own for the heartbeat.
//!
//! **async-std is discontinued** ([RUSTSEC-2025-0052]): it gets no more fixes. This package is for
//! programs that still run on it; new ones take `outbox-smol`, whose timers and sockets are the
//! same, or `outbox-tokio`. Nothing of outbox turns it on by itself.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # async fn example(storage: Arc<dyn outbox_core::Storage>) -> Result<(), outbox_core::Error> {
//! outbox_async_std::shared_worker(storage).run().await?;
//! # Ok(()) }
//! ```
//!
//! async-std has one thread for each processor, or as many as the environment variable
//! `ASYNC_STD_THREAD_COUNT` says. A handler that blocks one blocks it for every other task there;
//! give blocking code to `Blocking`. Leases do not depend on it: the heartbeat has its own thread.
//!
//! [RUSTSEC-2025-0052]: https://rustsec.org/advisories/RUSTSEC-2025-0052

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_std::task;
use futures_util::future::BoxFuture;
use outbox_core::{Runtime, Storage, Worker};

/// async-std's runtime, of which a process has one.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsyncStdRuntime;

impl Runtime for AsyncStdRuntime {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        // Dropping the handle detaches the task.
        drop(task::spawn(future));
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(task::sleep(duration))
    }

    fn spawn_thread(&self, name: &str, future: BoxFuture<'static, ()>) -> io::Result<()> {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(|| task::block_on(future))?;
        Ok(())
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        drop(task::spawn_blocking(work));
    }
}

/// A worker on this storage and async-std.
pub fn worker(storage: impl Storage) -> Worker {
    shared_worker(Arc::new(storage))
}

/// The same, on a storage that is shared already.
pub fn shared_worker(storage: Arc<dyn Storage>) -> Worker {
    Worker::new(storage, Arc::new(AsyncStdRuntime))
}
