//! How fast handlers end, from which follows how much is worth leasing ahead.

use std::time::{Duration, Instant};

/// How many handlers end in a given time, over the last second or so.
pub(super) struct Rate {
    since: Instant,
    count: usize,
    per_second: f64,
}

impl Rate {
    const WINDOW: Duration = Duration::from_millis(50);

    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            count: 0,
            per_second: 0.0,
        }
    }

    pub(super) fn count(&mut self, count: usize, now: Instant) {
        self.count += count;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= Self::WINDOW || self.per_second == 0.0 {
            let elapsed = elapsed.max(Duration::from_millis(1)).as_secs_f64();
            let present = self.count as f64 / elapsed;
            // Falls as fast as it rises: a handler that became slow must not go on hoarding.
            self.per_second = (self.per_second + present) / 2.0;
            self.count = 0;
            self.since = now;
        }
    }

    /// How many will end within `window`, if they go on as they did until `now`.
    pub(super) fn within(&self, window: Duration, now: Instant) -> usize {
        let elapsed = now.saturating_duration_since(self.since);
        let per_second = if elapsed >= Self::WINDOW {
            // Nothing counts while nothing ends: the present silence says how slow they became.
            self.per_second
                .min(self.count as f64 / elapsed.as_secs_f64())
        } else {
            self.per_second
        };
        // Casting a float to usize saturates.
        (per_second * window.as_secs_f64()) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn handlers_that_became_slow_are_noticed_before_one_of_them_ends() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for step in 1..=20 {
            rate.count(500, start + Duration::from_millis(50) * step);
        }
        assert!(rate.within(SECOND, start + SECOND) > 9_000);
        assert!(rate.within(SECOND, start + SECOND * 2) < 10);
        assert_eq!(rate.within(SECOND, start + SECOND * 60), 0);
    }
}
