//! One run of one message: the handler's future, its limit, its panics, the loss of its lease
//! and the end of the worker, reduced to one `Finished` with the verdict about the message.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt, poll_fn};
use futures_util::task::AtomicWaker;
use futures_util::{pin_mut, select_biased};

use super::heartbeat::{Leases, give_up};
use super::registry::Registration;
use super::runners::Slots;
use super::shutdown::Shutdown;
use super::verdict::{Attempt, RunEnd, caught, panic_message};
use crate::handler::{Context, Lease};
use crate::outcome::{Outcome, Verdict};
use crate::runtime::Runtime;
use crate::storage::Claimed;
use crate::telemetry::{About, Event, Telemetry, add};

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
    /// Leaves an end without waking the reader.
    fn put(&self, finished: Finished) {
        self.finished
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(finished);
    }

    /// Tells the reader to look.
    pub(super) fn wake(&self) {
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

/// What all runs of a worker share with each other and with its agent.
pub(super) struct Shared {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) shutdown: Arc<Shutdown>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) leases: Arc<Leases>,
    pub(super) slots: Slots,
    pub(super) inbox: Inbox,
}

impl Shared {
    /// Gives up the lease of a run that has not begun, if its time is over by this worker's own clock.
    pub(super) fn give_up_if_over(&self, run: &Run, now: Instant) {
        let held = run.report.message.held();
        give_up(&self.telemetry, self.leases.end_if_over(held, now));
    }
}

/// One run of one message. It leaves its end in the inbox, whatever happens: also when it is dropped
/// before it began.
pub(super) struct Run {
    context: Context,
    report: ReportEnd,
}

/// What a first poll of the handler came to.
pub(super) enum Begun {
    /// The run has ended at this time, and nobody was woken to read that.
    Ended(Instant),
    Pending(Watched),
}

impl Run {
    pub(super) fn new(
        context: Context,
        registration: Arc<Registration>,
        shared: Arc<Shared>,
        now: Instant,
    ) -> Self {
        let message = Arc::clone(context.shared_message());
        let report = ReportEnd {
            started: now,
            ended: None,
            shared,
            message,
            registration,
            // Dropped before it began, even by a panic, it is not to blame.
            end: Some(RunEnd::Cancelled),
            has_slot: false,
            wakes: true,
        };
        Self { context, report }
    }

    /// It was given a slot, which is free again when the run ends.
    pub(super) fn take_slot(&mut self) {
        self.report.has_slot = true;
    }

    /// Whether it should not share a task with others.
    pub(super) fn takes_own_task(&self) -> bool {
        self.report.registration.takes_own_task()
    }

    /// Ends it before it began, without waking the reader.
    pub(super) fn cancel(self) {
        let mut report = self.report;
        let now = report.shared.runtime.now();
        report.started = now;
        report.end_at_once(RunEnd::Cancelled, now);
    }

    /// Polls the handler for the first time; the run has a slot. Most handlers of small work are ready
    /// at once: then nothing needs to be watched.
    pub(super) fn begin(self, now: Instant, task: &mut TaskContext<'_>) -> Begun {
        let Self {
            context,
            mut report,
        } = self;
        report.started = now;
        // It may have waited for long.
        if context.lease().is_lost() {
            return report.end_at_once(RunEnd::Lost, now);
        }
        // The agent may not have come to give it back yet.
        if report.shared.shutdown.is_draining() {
            return report.end_at_once(RunEnd::Cancelled, now);
        }
        add(&report.shared.telemetry.counters.started, 1);
        let about = About::of(&report.message);
        report.shared.telemetry.tell(&Event::Started(about));
        let lease = context.lease().clone();
        let call = report.registration.call;
        report.end = None;
        let called = catch_unwind(AssertUnwindSafe(|| call(context)));
        let mut handler = match called {
            Ok(handler) => handler,
            Err(panic) => {
                let now = report.note_poll();
                return report.end_at_once(RunEnd::Panicked(panic_message(panic)), now);
            }
        };
        let polled = catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(task)));
        let end = match polled {
            Ok(Poll::Ready(outcome)) => RunEnd::Decided(outcome),
            Err(panic) => RunEnd::Panicked(panic_message(panic)),
            Ok(Poll::Pending) => {
                report.note_poll();
                return Begun::Pending(Watched {
                    handler,
                    lease,
                    report,
                });
            }
        };
        let end = match caught(|| drop(handler)) {
            Some(()) => end,
            None => {
                caught(|| drop(end));
                RunEnd::Panicked(DROP_PANICKED.to_owned())
            }
        };
        let now = report.note_poll();
        report.end_at_once(end, now)
    }

    /// Runs it on a task of its own, once it has a slot, and does not wake the reader.
    pub(super) async fn execute(self) {
        let shared = Arc::clone(&self.report.shared);
        let mut run = Some(self);
        let begun = poll_fn(|task| {
            let now = shared.runtime.now();
            Poll::Ready(run.take().map(|run| {
                // The runtime may have come to it late.
                if shared.leases.some_may_be_over(now) {
                    shared.give_up_if_over(&run, now);
                }
                run.begin(now, task)
            }))
        });
        if let Some(Begun::Pending(watched)) = begun.await {
            watched.watch().await;
        }
    }
}

/// A run whose handler was not ready at once. What it holds is dropped before its end is told.
pub(super) struct Watched {
    handler: BoxFuture<'static, Outcome>,
    lease: Lease,
    report: ReportEnd,
}

impl Watched {
    /// Waits for its end, and does not wake the reader.
    pub(super) async fn watch(self) {
        let Self {
            handler,
            lease,
            mut report,
        } = self;
        let limit = report.registration.definition.timeout;
        let end = supervise(handler, lease, limit, &report.shared).await;
        report.end = Some(end);
        report.wakes = false;
    }
}

/// Waits until the handler ends, or has to.
async fn supervise(
    handler: BoxFuture<'static, Outcome>,
    lease: Lease,
    limit: Option<Duration>,
    shared: &Shared,
) -> RunEnd {
    let Shared {
        runtime, shutdown, ..
    } = shared;
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
    let mut handler = AssertUnwindSafe(handler).catch_unwind().fuse();
    select_biased! {
        ended = handler => match ended {
            Ok(outcome) => RunEnd::Decided(outcome),
            Err(panic) => RunEnd::Panicked(panic_message(panic)),
        },
        () = lost => RunEnd::Lost,
        () = cancelled => RunEnd::Cancelled,
        limit = too_long => RunEnd::TimedOut(limit),
    }
}

const DROP_PANICKED: &str = "a value of the handler panicked when it was dropped";

/// Leaves the end in the inbox when it is dropped, so that no way out of a run, not even a panic
/// in a destructor, can leave a slot taken and a lease renewed for ever.
struct ReportEnd {
    started: Instant,
    ended: Option<Instant>,
    shared: Arc<Shared>,
    message: Arc<Claimed>,
    registration: Arc<Registration>,
    end: Option<RunEnd>,
    has_slot: bool,
    wakes: bool,
}

impl ReportEnd {
    /// Notes how long the first poll took.
    fn note_poll(&mut self) -> Instant {
        let now = self.shared.runtime.now();
        self.registration
            .note_poll(now.saturating_duration_since(self.started));
        now
    }

    /// Ends the run without waking the reader.
    fn end_at_once(mut self, end: RunEnd, now: Instant) -> Begun {
        self.ended = Some(now);
        self.end = Some(end);
        self.wakes = false;
        Begun::Ended(now)
    }
}

impl Drop for ReportEnd {
    fn drop(&mut self) {
        let end = self.end.take().unwrap_or_else(|| {
            if std::thread::panicking() {
                RunEnd::Panicked(DROP_PANICKED.to_owned())
            } else {
                // The runtime ends and drops its tasks.
                RunEnd::Cancelled
            }
        });
        let Shared {
            runtime,
            inbox,
            slots,
            ..
        } = &*self.shared;
        let ended = self.ended.unwrap_or_else(|| runtime.now());
        let duration = ended.saturating_duration_since(self.started);
        let attempt = Attempt {
            message: &self.message,
            age: self.message.age.saturating_add(duration),
            registration: &self.registration,
        };
        inbox.put(Finished {
            message: Arc::clone(&self.message),
            duration,
            panicked: matches!(end, RunEnd::Panicked(_)),
            timed_out: matches!(end, RunEnd::TimedOut(_)),
            verdict: attempt.verdict(end, fastrand::f64()),
        });
        if self.has_slot {
            slots.release();
        }
        if self.wakes {
            inbox.wake();
        }
    }
}
