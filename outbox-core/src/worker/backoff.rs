//! The pauses between calls while the storage fails.

use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The pause after failed calls: full jitter, doubling from 50 ms to 5 s.
#[derive(Default)]
pub(super) struct Backoff {
    /// Since the storage was last well.
    failures: u32,
    /// In a row: what the pause follows.
    streak: u32,
    last: Option<Instant>,
    until: Option<Instant>,
}

impl Backoff {
    pub(super) fn failed(&mut self, now: Instant, random: f64) -> u32 {
        let longest = FIRST_PAUSE
            .saturating_mul(1 << self.streak.min(10))
            .min(LONGEST_PAUSE);
        // Not below a tenth: a pause of nothing would be no pause.
        self.until = Some(now + longest.mul_f64(random.clamp(0.1, 1.0)));
        self.last = Some(now);
        self.streak = self.streak.saturating_add(1);
        self.failures = self.failures.saturating_add(1);
        self.failures
    }

    /// A call succeeded: no pause before the next one. False if another has failed since this one was
    /// sent, of which it says nothing.
    pub(super) fn answered(&mut self, sent: Instant) -> bool {
        if self.last.is_some_and(|failed| sent < failed) {
            return false;
        }
        self.streak = 0;
        self.until = None;
        true
    }

    /// Nothing fails any more. Returns how many calls had failed.
    pub(super) fn recovered(&mut self) -> u32 {
        std::mem::take(&mut self.failures)
    }

    /// Until when to wait, if that is not over.
    pub(super) fn pause(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_after_failures_double_to_a_limit_and_end_with_a_success() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.failed(now, 1.0), 1);
        assert_eq!(backoff.pause(now), Some(now + Duration::from_millis(50)));
        assert_eq!(backoff.failed(now, 0.5), 2);
        assert_eq!(backoff.pause(now), Some(now + Duration::from_millis(50)));
        for _ in 0..40 {
            backoff.failed(now, 1.0);
        }
        assert_eq!(backoff.pause(now), Some(now + SECOND * 5));
        assert_eq!(backoff.pause(now + SECOND * 5), None);
        assert!(!backoff.answered(now - SECOND), "it was sent before that");
        assert_eq!(backoff.pause(now), Some(now + SECOND * 5));
        assert!(backoff.answered(now));
        assert_eq!(backoff.pause(now), None);
        assert_eq!(backoff.recovered(), 42);
        assert_eq!(backoff.failed(now, 1.0), 1);
        assert_eq!(backoff.pause(now), Some(now + Duration::from_millis(50)));
    }
}
