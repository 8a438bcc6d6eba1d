//! One run of one message: the handler's future, its limit, its panics, the loss of its lease
//! and the end of the worker, reduced to one `Finished` with the verdict about the message.

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use futures_util::future::{FutureExt, poll_fn};
use futures_util::task::AtomicWaker;
use futures_util::{pin_mut, select_biased};

use super::registry::Registration;
use super::shutdown::Shutdown;
use super::verdict::{Attempt, RunEnd, panic_message};
use crate::handler::Context;
use crate::outcome::{Outcome, Verdict};
use crate::runtime::Runtime;
use crate::storage::Claimed;

/// A run that ended.
pub(super) struct Finished {
    pub(super) message: Arc<Claimed>,
    pub(super) duration: Duration,
    pub(super) panicked: bool,
    pub(super) timed_out: bool,
    /// What to write about it, or `None` if nothing may be written.
    pub(super) verdict: Option<Verdict>,
}

/// Where runs leave their ends for the agent. One reader.
#[derive(Default)]
pub(super) struct Inbox {
    // Guards the ends not yet read; never held over an await.
    finished: Mutex<Vec<Finished>>,
    reader: AtomicWaker,
}

impl Inbox {
    fn push(&self, finished: Finished) {
        self.finished
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(finished);
        self.reader.wake();
    }

    pub(super) fn take(&self) -> Vec<Finished> {
        std::mem::take(&mut *self.finished.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many ends can be read. Wakes the task when there are more.
    pub(super) fn poll_count(&self, task: &mut TaskContext<'_>) -> usize {
        self.reader.register(task.waker());
        self.finished
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

/// Everything one run needs.
pub(super) struct Run {
    pub(super) context: Context,
    pub(super) registration: Arc<Registration>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) shutdown: Arc<Shutdown>,
    pub(super) inbox: Arc<Inbox>,
}

impl Run {
    /// Runs the handler and leaves its end in the inbox, whatever happens: also when the future
    /// is dropped before it was polled.
    pub(super) fn execute(self) -> impl Future<Output = ()> + Send + 'static {
        let mut report = ReportEnd {
            started: self.runtime.now(),
            runtime: Arc::clone(&self.runtime),
            inbox: Arc::clone(&self.inbox),
            message: Arc::clone(self.context.shared_message()),
            registration: Arc::clone(&self.registration),
            end: None,
        };
        async move {
            report.begin();
            let end = self.supervise().await;
            report.finish(end);
        }
    }

    async fn supervise(self) -> RunEnd {
        let Self {
            context,
            registration,
            runtime,
            shutdown,
            ..
        } = self;
        let lease = context.lease().clone();
        // A busy runtime may have let it wait for long.
        if lease.is_lost() {
            return RunEnd::Lost;
        }
        if shutdown.is_cancelled() {
            return RunEnd::Cancelled;
        }
        let call = registration.call;
        // The call itself is inside, so that a panic before the first await is caught as well.
        let handler = AssertUnwindSafe(async move { call(context).await }).catch_unwind();
        let mut handler = pin!(handler);
        // Most handlers of small work are ready at once: then nothing needs to be watched.
        if let Some(ended) = poll_once(handler.as_mut()).await {
            return decided(ended);
        }
        let limit = registration.definition.timeout;
        let too_long = async {
            match limit {
                Some(limit) => {
                    runtime.sleep(limit).await;
                    limit
                }
                None => std::future::pending().await,
            }
        };
        let (lost, cancelled) = (lease.lost().fuse(), shutdown.cancelled().fuse());
        let too_long = too_long.fuse();
        pin_mut!(lost, cancelled, too_long);
        let mut handler = handler.fuse();
        select_biased! {
            ended = handler => decided(ended),
            () = lost => RunEnd::Lost,
            () = cancelled => RunEnd::Cancelled,
            limit = too_long => RunEnd::TimedOut(limit),
        }
    }
}

/// Leaves the end in the inbox when it is dropped, so that no way out of a run, not even a panic
/// in a destructor, can leave a slot taken and a lease renewed for ever.
struct ReportEnd {
    started: Instant,
    runtime: Arc<dyn Runtime>,
    inbox: Arc<Inbox>,
    message: Arc<Claimed>,
    registration: Arc<Registration>,
    end: Option<RunEnd>,
}

impl ReportEnd {
    fn begin(&mut self) {
        self.started = self.runtime.now();
    }

    fn finish(mut self, end: RunEnd) {
        self.end = Some(end);
    }
}

impl Drop for ReportEnd {
    fn drop(&mut self) {
        let end = self.end.take().unwrap_or_else(|| {
            if std::thread::panicking() {
                RunEnd::Panicked("a value of the handler panicked when it was dropped".into())
            } else {
                // The runtime ends and drops its tasks.
                RunEnd::Cancelled
            }
        });
        let duration = self.runtime.now().saturating_duration_since(self.started);
        let attempt = Attempt {
            message: &self.message,
            age: self.message.age.saturating_add(duration),
            registration: &self.registration,
        };
        self.inbox.push(Finished {
            message: Arc::clone(&self.message),
            duration,
            panicked: matches!(end, RunEnd::Panicked(_)),
            timed_out: matches!(end, RunEnd::TimedOut(_)),
            verdict: attempt.verdict(end, fastrand::f64()),
        });
    }
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|task| {
        Poll::Ready(match future.as_mut().poll(task) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

fn decided(ended: Result<Outcome, Box<dyn std::any::Any + Send>>) -> RunEnd {
    match ended {
        Ok(outcome) => RunEnd::Decided(outcome),
        Err(panic) => RunEnd::Panicked(panic_message(panic)),
    }
}
