//! The runtime seam: spawning and time. Sockets belong to the storages, and everything built on
//! top (join, abort, timeout, panic capture) is written once in this crate over `futures-util`,
//! so that behaviour is the same on every runtime.

use std::future::Future;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, Either, poll_fn, select};

/// An async runtime, as the worker needs it. An adapter is chosen by the caller, never detected.
///
/// # Implementing
/// All methods may be called from any thread on which the worker runs. The default `now` and
/// `spawn_blocking` suit every runtime on the operating system's clock. The suite that every
/// runtime has to pass is `outbox_testkit::runtime_suite!`.
pub trait Runtime: Send + Sync + 'static {
    /// Starts `task` in the background. It runs until it ends; nobody joins or aborts it.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// Completes after `duration` of this runtime's time. It is created and polled on the same
    /// thread, which may be one that [`spawn_thread`](Self::spawn_thread) started.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Runs `task` on a new thread of its own, together with the timers and sockets it opens
    /// there: nothing that happens on other threads may delay it. The heartbeat lives there.
    ///
    /// # Errors
    /// When the thread or its reactor cannot be started; the worker then does not start either.
    fn spawn_thread(&self, name: &str, task: BoxFuture<'static, ()>) -> std::io::Result<()>;

    /// The present time of this runtime. Only differences matter.
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// How many tasks it runs at the same moment: its threads. By default as many as the machine
    /// lets this process run. More than there are costs little; with fewer, handlers that
    /// compute do not use all threads.
    fn parallelism(&self) -> usize {
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }

    /// Runs blocking code where it cannot hold up async tasks.
    fn spawn_blocking(&self, task: Box<dyn FnOnce() + Send>) {
        std::thread::spawn(task);
    }
}

/// Lets other tasks of the runtime run first.
pub(crate) async fn yield_once() {
    let mut yielded = false;
    poll_fn(|task| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        task.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs `future` for at most `limit` of the runtime's time; `None` means that it was dropped
/// unfinished.
pub async fn timeout<F: Future>(
    runtime: &dyn Runtime,
    limit: Duration,
    future: F,
) -> Option<F::Output> {
    let future = std::pin::pin!(future);
    match select(future, runtime.sleep(limit)).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(((), _)) => None,
    }
}
