//! What a storage may do without.

use std::fmt;

/// Something that a storage offers or declines. Everything else is asked of every storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// Enqueueing inside the caller's transaction.
    Transactions,
    /// Hints that something has become available. Without them workers poll.
    WakeUps,
    /// Serving urgent messages first. Without them due time and id decide.
    Priorities,
    /// Cancelling a message that nobody holds.
    Cancel,
}

impl Capability {
    /// Its name in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transactions => "transactions",
            Self::WakeUps => "wake-ups",
            Self::Priorities => "priorities",
            Self::Cancel => "cancel",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
