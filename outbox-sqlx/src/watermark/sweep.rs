//! When to read an index from its beginning again.

use std::time::{Duration, Instant};

/// How long a message before the mark waits at most while a backlog is worked off, where sweeps
/// are not slow.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// Sweeps take at most one part in so many of the time.
const SHARE: u32 = 20;
/// The longest pause between two, however slow they are: what a message may wait for then.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// With fewer messages behind it, a sweep that was slow was held up by something else. An entry
/// takes about 0.25 us (measured), so that 50 ms, a [`SHARE`] of [`INTERVAL`], are 200,000 of them.
const MANY: u64 = 10_000;

/// The sweeps of one range of an index.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sweep {
    /// `None` for the next claim.
    next: Option<Instant>,
    took: Duration,
}

/// What tells a range full of dead entries from a busy machine.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    /// How many messages were taken from the range by this process, or since it was last quick.
    pub(super) taken: u64,
}

/// Whether sweeps that take so long may come as often as they like.
pub(super) fn is_quick(took: Duration) -> bool {
    took * SHARE <= INTERVAL
}

impl Sweep {
    pub(super) fn is_due(self, now: Instant) -> bool {
        self.next.is_none_or(|next| next <= now)
    }

    /// How long until the next one; zero if it is due.
    pub(super) fn wait(self, now: Instant) -> Duration {
        self.next
            .map_or(Duration::ZERO, |next| next.saturating_duration_since(now))
    }

    /// Whether sweeping with every claim that finds nothing would take too much of the time.
    pub(super) fn is_slow(self, cost: Cost) -> bool {
        self.pause() > INTERVAL && cost.taken >= MANY
    }

    /// One takes place now. Claims beside it leave it alone.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.next.is_some() {
            self.next = Some(now + self.pause());
        }
    }

    pub(super) fn done(&mut self, took: Duration, now: Instant) {
        self.took = took;
        self.next = Some(now + self.pause());
    }

    pub(super) const fn want(&mut self) {
        self.next = None;
    }

    fn pause(self) -> Duration {
        (self.took * SHARE).clamp(INTERVAL, LONGEST_PAUSE)
    }
}
