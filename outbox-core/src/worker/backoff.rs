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
    /// When the last pause began.
    paused: Option<Instant>,
    until: Option<Instant>,
}

impl Backoff {
    /// A call that was sent then failed. Those that were under way together fail together, for one
    /// reason: only the first of them lengthens the pause.
    pub(super) fn failed(&mut self, sent: Instant, now: Instant, random: f64) -> u32 {
        if is_news(sent, self.paused) {
            let longest = FIRST_PAUSE
                .saturating_mul(1 << self.streak.min(10))
                .min(LONGEST_PAUSE);
            // Not below a tenth: a pause of nothing would be no pause.
            self.until = Some(now + longest.mul_f64(random.clamp(0.1, 1.0)));
            self.streak = self.streak.saturating_add(1);
            self.paused = Some(now);
        }
        self.last = Some(now);
        self.failures = self.failures.saturating_add(1);
        self.failures
    }

    /// A call succeeded: no pause before the next one. False if another has failed since this one was
    /// sent, of which it says nothing.
    pub(super) fn answered(&mut self, sent: Instant) -> bool {
        if !is_news(sent, self.last) {
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

/// Whether a call was sent after that failure. One of the same instant was not: a pause follows, and
/// the clock may be coarse.
fn is_news(sent: Instant, failed: Option<Instant>) -> bool {
    failed.is_none_or(|failed| sent > failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_after_failures_double_to_a_limit_and_end_with_a_success() {
        let mut now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.failed(now, now, 1.0), 1);
        assert_eq!(backoff.pause(now), Some(now + Duration::from_millis(50)));
        now += SECOND;
        assert_eq!(backoff.failed(now, now, 0.5), 2);
        assert_eq!(backoff.pause(now), Some(now + Duration::from_millis(50)));
        for _ in 0..40 {
            now += SECOND * 5;
            backoff.failed(now, now, 1.0);
        }
        assert_eq!(backoff.pause(now), Some(now + SECOND * 5));
        assert_eq!(backoff.pause(now + SECOND * 5), None);
        assert!(!backoff.answered(now), "it was sent before that");
        assert_eq!(backoff.pause(now), Some(now + SECOND * 5));
        now += SECOND * 5;
        assert!(backoff.answered(now));
        assert_eq!(backoff.pause(now), None);
        assert_eq!(backoff.recovered(), 42);
        assert_eq!(backoff.failed(now, now, 1.0), 1);
        assert_eq!(backoff.pause(now), Some(now + Duration::from_millis(50)));
    }

    #[test]
    fn calls_that_fail_side_by_side_lengthen_the_pause_once() {
        let sent = Instant::now();
        let mut backoff = Backoff::default();
        for count in 1..=16 {
            assert_eq!(backoff.failed(sent, sent + SECOND, 1.0), count);
        }
        let first = Duration::from_millis(50);
        assert_eq!(backoff.pause(sent), Some(sent + SECOND + first));
        backoff.failed(sent + SECOND * 2, sent + SECOND * 2, 1.0);
        assert_eq!(
            backoff.pause(sent),
            Some(sent + SECOND * 2 + first * 2),
            "the next one in a row"
        );
    }

    #[test]
    fn calls_that_fail_in_turn_do_not_excuse_each_other() {
        let start = Instant::now();
        let at = |tenths| start + SECOND / 10 * tenths;
        let mut backoff = Backoff::default();
        backoff.failed(at(0), at(10), 1.0);
        // Sent before that, and fails while one that was sent after it is under way.
        backoff.failed(at(5), at(12), 1.0);
        backoff.failed(at(11), at(21), 1.0);
        let second = at(21) + Duration::from_millis(100);
        assert_eq!(backoff.pause(at(21)), Some(second));
    }
}
