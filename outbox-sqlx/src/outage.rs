//! An outage of what wakes workers: told once, and its pauses between attempts.

use std::time::Duration;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest pause.
pub(crate) const LAST_BACKOFF: Duration = Duration::from_secs(30);

/// One outage is one line in the log, however many attempts it takes to end it.
#[derive(Default)]
pub(crate) struct Outage {
    told: bool,
    backoff: Duration,
}

impl Outage {
    pub(crate) fn begin(&mut self, error: &dyn std::error::Error) {
        if !self.told {
            self.told = true;
            tracing::warn!(%error,
                "not listening for wake-ups; workers poll until it is back"
            );
        }
    }

    pub(crate) fn over(&mut self) {
        if self.told {
            self.told = false;
            tracing::info!("listening for wake-ups again");
        }
    }

    pub(crate) fn forget_backoff(&mut self) {
        self.backoff = Duration::ZERO;
    }

    /// Doubles from 1 s to 30 s. Jitter is taken off the top: it must neither pass the limit nor
    /// vanish at it, or every worker would return at once.
    pub(crate) fn next_backoff(&mut self) -> Duration {
        self.backoff = self
            .backoff
            .saturating_mul(2)
            .clamp(FIRST_BACKOFF, LAST_BACKOFF);
        self.backoff.mul_f64(1.0 - fastrand::f64() / 2.0)
    }
}
