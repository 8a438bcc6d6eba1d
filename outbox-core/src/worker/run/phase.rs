//! The phases of a worker: it claims until its shutdown begins, lets its handlers finish, drops those that
//! took too long, and writes what is left. Each but the first has a time by which it is over.

use std::time::{Duration, Instant};

use super::Agent;
use crate::outcome::Verdict;
use crate::telemetry::{Event, Health};
use crate::worker::shutdown::Shutdown;

/// How long cancelled handlers have to be dropped before the worker leaves them behind.
const CANCEL_TIME: Duration = Duration::from_secs(1);

/// Forward only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Claiming,
    /// No claims; handlers may go on until then.
    Draining {
        until: Instant,
    },
    /// Handlers are being dropped.
    Cancelling {
        until: Instant,
    },
    /// Only outcomes are written.
    Flushing {
        until: Instant,
    },
}

impl Phase {
    /// Whether the signal has come that ends this phase before its time.
    pub(super) fn is_told_to_end(self, shutdown: &Shutdown) -> bool {
        match self {
            Self::Claiming => shutdown.is_draining(),
            Self::Draining { .. } => shutdown.is_cancelled(),
            Self::Cancelling { .. } | Self::Flushing { .. } => false,
        }
    }
}

impl Agent {
    pub(super) fn advance_phase(&mut self, now: Instant) {
        let told = self.phase.is_told_to_end(&self.shared.shutdown);
        if self.phase == Phase::Claiming && (told || self.idle) {
            self.drain(now);
        }
        // The signal may be for both.
        let told = self.phase.is_told_to_end(&self.shared.shutdown);
        if let Phase::Draining { until } = self.phase
            && (now >= until || told)
        {
            self.cancel(now, now >= until);
        }
        if let Phase::Cancelling { until } = self.phase
            && now >= until
        {
            self.flush(now);
        }
    }

    /// Gives back what has not begun.
    fn drain(&mut self, now: Instant) {
        self.shared.telemetry.set_health(Health::Draining);
        self.phase = Phase::Draining {
            until: now + self.settings.grace,
        };
        self.runners.clear();
        for (message, _) in std::mem::take(&mut self.ready) {
            self.give_back(&message, Verdict::Release);
        }
        self.read_finished(now);
    }

    /// Has the handlers dropped that still run.
    fn cancel(&mut self, now: Instant, timed_out: bool) {
        if self.running > 0 && timed_out {
            tracing::warn!(
                running = self.running,
                "the time to drain is over; handlers are cancelled"
            );
            self.shared.telemetry.tell(&Event::DrainTimedOut {
                running: self.running,
            });
        }
        self.shared.shutdown.cancel();
        self.phase = Phase::Cancelling {
            until: now + CANCEL_TIME,
        };
    }

    /// Leaves handlers behind that were not dropped.
    fn flush(&mut self, now: Instant) {
        if self.running > 0 {
            // They block their threads and cannot be dropped. Their messages are not given
            // back while the code still runs; they come back when their leases end.
            let abandoned = self.shared.leases.abandon_running();
            tracing::warn!(
                abandoned,
                "handlers did not stop; their leases are left to end"
            );
        }
        self.phase = Phase::Flushing {
            until: now + self.settings.storage_timeout,
        };
    }

    /// Whether the last phase is over, or there is nothing left to do in it or those before.
    pub(super) fn is_over(&self) -> bool {
        let written = self.outgoing.is_empty() && self.exchanges.is_empty();
        let done = self.running == 0 && written;
        match self.phase {
            Phase::Claiming => false,
            Phase::Draining { .. } => done && !self.claiming.is_unresolved(),
            Phase::Cancelling { .. } => done,
            Phase::Flushing { until } => written || self.now() >= until,
        }
    }
}
