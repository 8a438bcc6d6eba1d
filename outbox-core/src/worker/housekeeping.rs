//! The housekeeping: a task that lets the storage tidy up after what was settled, beside the
//! exchanges and the heartbeat, neither of which it holds up.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{FutureExt, select};

use super::heartbeat::{storage_panic, too_slow};
use super::verdict::{caught, panic_message};
use crate::error::Error;
use crate::runtime::{Runtime, timeout};
use crate::storage::{Housekeeping, Storage};
use crate::telemetry::{Event, Telemetry, add};

/// How often the storage is called, varied by a fifth. On Postgres 15 with 100,000 messages a
/// second, tables that are vacuumed every 5 s stay at 0.2 GB and their rate is flat; a minute apart they
/// grow to 2.3 GB, and a fifth of the rate is left (measured for 5 minutes).
const TICK: Duration = Duration::from_secs(5);
/// How often a worker that settles asks whether the storage is untidy, and calls it then at once.
const SHORT_TICK: Duration = Duration::from_millis(250);
/// How often a worker that settles nothing looks whether it does again.
const QUIET_TICK: Duration = Duration::from_secs(1);
/// What takes longer has lost its connection: the vacuum of a table of 100 GB takes less.
const LONGEST: Duration = Duration::from_secs(3600);
/// How long a worker that ends waits for it: a handler may block the thread it is on.
const STOP_TIME: Duration = Duration::from_secs(1);

/// Starts the task. It ends when it is told to, and as well when the handle is dropped.
pub(super) fn start(
    storage: &Arc<dyn Storage>,
    runtime: &Arc<dyn Runtime>,
    telemetry: &Arc<Telemetry>,
) -> RunningHousekeeper {
    let housekeeper = Housekeeper {
        storage: Arc::clone(storage),
        runtime: Arc::clone(runtime),
        telemetry: Arc::clone(telemetry),
    };
    let (stop, stopped) = futures_channel::oneshot::channel::<()>();
    let (sender, ended) = futures_channel::oneshot::channel::<()>();
    runtime.spawn(Box::pin(async move {
        {
            let work = pin!(housekeeper.tick());
            select(work, stopped).await;
        }
        drop(sender);
    }));
    let runtime = Arc::clone(runtime);
    RunningHousekeeper {
        stop,
        ended,
        runtime,
    }
}

pub(super) struct RunningHousekeeper {
    stop: futures_channel::oneshot::Sender<()>,
    ended: futures_channel::oneshot::Receiver<()>,
    runtime: Arc<dyn Runtime>,
}

impl RunningHousekeeper {
    /// Stops it, in the middle of a call if need be.
    pub(super) async fn stop(self) {
        drop(self.stop);
        // The sender is dropped, never used: an answer of any kind is the signal.
        let _ = timeout(&*self.runtime, STOP_TIME, self.ended).await;
    }
}

struct Housekeeper {
    storage: Arc<dyn Storage>,
    runtime: Arc<dyn Runtime>,
    telemetry: Arc<Telemetry>,
}

impl Housekeeper {
    /// Ends only where the storage may not tidy up: that will be so the next time.
    async fn tick(&self) {
        let mut seen = 0;
        let mut failing = false;
        loop {
            let pause = TICK.mul_f64(0.8 + 0.4 * fastrand::f64());
            if failing {
                self.runtime.sleep(pause).await;
            } else {
                self.pause_while_tidy(pause).await;
            }
            let settled = self.telemetry.counters.settled();
            if settled == seen {
                continue;
            }
            seen = settled;
            match self.call().await {
                Ok(Housekeeping::NotPermitted { advice }) => {
                    tracing::warn!(advice, "the storage may not tidy up after messages");
                    let done = Housekeeping::NotPermitted { advice };
                    self.telemetry.tell(&Event::Housekept(&done));
                    return;
                }
                Ok(done @ Housekeeping::Done { .. }) => {
                    failing = false;
                    tracing::debug!(?done, "the storage tidied up");
                    self.telemetry.tell(&Event::Housekept(&done));
                }
                Ok(done @ (Housekeeping::NotNeeded | Housekeeping::Elsewhere)) => {
                    failing = false;
                    tracing::debug!(?done, "the storage did not tidy up");
                }
                Err(error) => {
                    self.failed(&error, failing);
                    failing = true;
                }
            }
        }
    }

    /// Sleeps for this long, or until the storage is untidy. A worker that settles nothing asks nothing.
    async fn pause_while_tidy(&self, pause: Duration) {
        let (mut left, mut tick) = (pause, SHORT_TICK);
        while !left.is_zero() {
            let before = self.telemetry.counters.settled();
            let step = left.min(tick);
            self.runtime.sleep(step).await;
            left -= step;
            tick = if self.telemetry.counters.settled() == before {
                QUIET_TICK
            } else if caught(|| self.storage.is_untidy()) == Some(true) {
                return;
            } else {
                SHORT_TICK
            };
        }
    }

    async fn call(&self) -> Result<Housekeeping, Error> {
        let call = AssertUnwindSafe(self.storage.housekeep()).catch_unwind();
        match timeout(&*self.runtime, LONGEST, call).await {
            Some(Ok(answer)) => answer,
            Some(Err(panic)) => Err(storage_panic("housekeep", &panic_message(panic))),
            None => Err(too_slow("housekeep", LONGEST)),
        }
    }

    /// No sign of ill health: that is told by the exchanges, which come more often.
    fn failed(&self, error: &Error, again: bool) {
        add(&self.telemetry.counters.storage_errors, 1);
        let error = error as &dyn std::error::Error;
        if again {
            tracing::debug!(error, "tidying up failed again");
        } else {
            tracing::warn!(error, "tidying up failed; the worker goes on");
        }
    }
}
