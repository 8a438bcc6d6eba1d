//! The lease: its token and who holds what. Pure values; the registry of held leases and the
//! loop that renews them live in `worker/heartbeat.rs`.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use crate::error::{Error, ErrorKind};
use crate::message::MessageId;

/// The proof of holding a lease: 128 random bits, drawn by the client for each claim *before* it
/// is sent.
///
/// It is random and not a counter because a counter repeats after a failover that loses the last
/// claim, and drawn by the client so that a claim whose reply was lost can be asked for again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseToken(Uuid);

impl LeaseToken {
    /// Draws a new token from the operating system's random numbers.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The token as a UUID, the form in which storages keep it.
    #[must_use]
    pub const fn as_uuid(&self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for LeaseToken {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl fmt::Debug for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseToken({})", self.0)
    }
}

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A message and the token under which it is held: what every fenced write must present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// The message.
    pub id: MessageId,
    /// The token of the claim that leased it.
    pub token: LeaseToken,
}

/// The lease used where a handler names none: 30 seconds, long enough for a slow heartbeat and
/// short enough that a crash is noticed while somebody still watches.
pub const DEFAULT_LEASE_TTL: Duration = Duration::from_secs(30);

/// The shortest lease: one second. Below it a single slow commit loses the lease.
pub const MIN_LEASE_TTL: Duration = Duration::from_secs(1);

/// The longest lease: 24 hours. Longer work renews; a crash must be noticed within a day.
pub const MAX_LEASE_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Checks that a lease is neither too short to renew nor too long to recover from.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`] outside [`MIN_LEASE_TTL`]`..=`[`MAX_LEASE_TTL`].
pub fn check_lease_ttl(lease_ttl: Duration) -> Result<(), Error> {
    if (MIN_LEASE_TTL..=MAX_LEASE_TTL).contains(&lease_ttl) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidConfig,
        "register",
        format!("lease_ttl is {lease_ttl:?}, and must be from 1 second to 24 hours"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_do_not_repeat() {
        assert_ne!(LeaseToken::random(), LeaseToken::random());
    }

    #[test]
    fn a_lease_is_one_second_to_one_day() {
        assert!(check_lease_ttl(Duration::from_millis(999)).is_err());
        assert!(check_lease_ttl(Duration::from_secs(1)).is_ok());
        assert!(check_lease_ttl(Duration::from_secs(86_400)).is_ok());
        assert!(check_lease_ttl(Duration::from_secs(86_401)).is_err());
    }
}
