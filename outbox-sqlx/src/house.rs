//! When a vacuum is worth it: counts and times, no database.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Dead rows that are worth a vacuum: with fewer autovacuum is in time. At two for each message,
/// a worker below 1,000 messages a second needs none every five seconds.
const LEAST: u64 = 10_000;
/// Dead rows that are not left for five seconds: the indexes would hold what died in them, the more of it the
/// higher the rate. With this they keep to 32 MB at 75,000 messages a second (`outbox-bench sustained`).
const MANY: u64 = 200_000;
/// A vacuum reads the indexes whole, so that a large backlog wants more dead rows: one for so many
/// messages.
const SHARE: u64 = 20;
/// A vacuum that removed little, because a snapshot keeps what is dead, takes at most one part in so
/// many of the time from then on.
const IDLE_SHARE: u32 = 20;
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Whether so many dead rows are too many to wait for the usual time.
pub(crate) const fn are_many(dead: u64) -> bool {
    dead >= MANY
}

/// What a storage knows about its dead rows.
#[derive(Default)]
pub(crate) struct House {
    /// Rows that this storage has left dead since the last vacuum it knows of. Counted here, because
    /// the server's statistics come in late, and asking for them is a statement.
    dead: AtomicU64,
    /// How many messages there were when it looked.
    live: AtomicU64,
    /// Not before.
    // Guards the time; never held over an await.
    rest: Mutex<Option<Instant>>,
}

impl House {
    /// Claims, settles and renewals each leave one dead row for each message.
    pub(crate) fn count(&self, messages: usize) {
        self.dead.fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// How many rows died, if a vacuum may be worth it.
    pub(crate) fn worth(&self, now: Instant) -> Option<u64> {
        let dead = self.dead.load(Ordering::Relaxed);
        let live = self.live.load(Ordering::Relaxed);
        let rest = *self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        let rested = rest.is_none_or(|until| until <= now);
        (rested && dead >= LEAST.max(live / SHARE)).then_some(dead)
    }

    /// Whether a vacuum is worth it at once.
    pub(crate) fn is_untidy(&self, now: Instant) -> bool {
        self.worth(now).is_some_and(are_many)
    }

    /// The table has about so many messages.
    pub(crate) fn looked(&self, live: u64) {
        self.live.store(live, Ordering::Relaxed);
    }

    /// So many of the dead rows are taken care of, by whomever. Workers that share this storage may
    /// each say so of the same rows.
    pub(crate) fn tidied(&self, dead: u64) {
        let less = |counted: u64| Some(counted.saturating_sub(dead));
        // Never refused.
        let _ = self
            .dead
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// A vacuum has removed what could be removed of these dead rows.
    pub(crate) fn vacuumed(&self, dead: u64, left: u64, took: Duration, now: Instant) {
        let rest = if left > dead / 2 {
            (took * IDLE_SHARE).min(LONGEST_REST)
        } else {
            took
        };
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(now + rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn untidy(dead: usize) -> House {
        let house = House::default();
        house.count(dead);
        house
    }

    #[test]
    fn few_dead_rows_are_not_worth_it() {
        let now = Instant::now();
        assert_eq!(untidy(9_999).worth(now), None);
        assert_eq!(untidy(10_000).worth(now), Some(10_000));
    }

    #[test]
    fn a_large_backlog_wants_more_dead_rows() {
        let (now, house) = (Instant::now(), untidy(49_999));
        house.looked(1_000_000);
        assert_eq!(house.worth(now), None);
        house.count(1);
        assert_eq!(house.worth(now), Some(50_000));
    }

    #[test]
    fn many_dead_rows_are_not_left_for_long() {
        let now = Instant::now();
        assert!(!untidy(199_999).is_untidy(now));
        let house = untidy(200_000);
        assert!(house.is_untidy(now));
        house.looked(4_000_020);
        assert!(!house.is_untidy(now), "one for twenty messages");
        house.looked(4_000_000);
        house.vacuumed(200_000, 0, SECOND, now);
        assert!(!house.is_untidy(now), "it rests");
        assert!(house.is_untidy(now + SECOND));
    }

    #[test]
    fn what_somebody_took_care_of_is_not_counted_again() {
        let (now, house) = (Instant::now(), untidy(12_000));
        house.count(500);
        house.tidied(12_000);
        assert_eq!(house.worth(now), None);
        house.count(9_500);
        assert_eq!(house.worth(now), Some(10_000));
    }

    #[test]
    fn what_two_took_care_of_at_once_leaves_nothing() {
        let (now, house) = (Instant::now(), untidy(12_000));
        house.tidied(12_000);
        house.tidied(12_000);
        assert_eq!(house.worth(now), None);
    }

    #[test]
    fn half_of_the_time_is_for_vacuums_that_help_and_a_twentieth_for_others() {
        let now = Instant::now();
        for (left, rest) in [(10_000, SECOND * 2), (10_001, SECOND * 40)] {
            let house = untidy(20_000);
            house.vacuumed(20_000, left, SECOND * 2, now);
            let before = (now + rest).checked_sub(SECOND / 10).expect("it is later");
            assert_eq!(house.worth(before), None, "{left} left");
            assert_eq!(house.worth(now + rest), Some(20_000), "{left} left");
        }
        let house = untidy(20_000);
        house.vacuumed(20_000, 20_000, SECOND * 30, now);
        assert!(house.worth(now + SECOND * 60).is_some(), "the longest rest");
    }
}
