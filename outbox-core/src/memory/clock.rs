//! The clock of `MemoryStorage`: moved by hand, or running.

use std::time::{Duration, Instant, SystemTime};

pub(super) struct Clock {
    start: SystemTime,
    running_since: Option<Instant>,
    advanced: Duration,
}

impl Clock {
    /// A clock that only `advance` moves, from the same instant every time.
    pub(super) fn manual() -> Self {
        const START: Duration = Duration::from_secs(1_700_000_000);
        Self {
            start: SystemTime::UNIX_EPOCH + START,
            running_since: None,
            advanced: Duration::ZERO,
        }
    }

    /// A clock that follows the operating system's monotonic time.
    pub(super) fn running() -> Self {
        Self {
            start: SystemTime::now(),
            running_since: Some(Instant::now()),
            advanced: Duration::ZERO,
        }
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.advanced += by;
    }

    pub(super) fn now(&self) -> SystemTime {
        let run = self.running_since.map(|since| since.elapsed());
        self.start + self.advanced + run.unwrap_or_default()
    }
}
