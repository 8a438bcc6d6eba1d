//! What a run decided, and what is written down about it. Pure values.

use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::error::BoxError;
use crate::lease::{Held, LeaseToken};
use crate::message::MessageId;

/// What a run of a handler decided about its message.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The work is done; the message is deleted.
    Done,
    /// The attempt failed; run again later, or give up when the attempts are used up.
    Retry {
        /// How long to wait, or `None` for the handler's retry policy.
        after: Option<Duration>,
        /// Why the attempt failed.
        error: BoxError,
    },
    /// Not yet: run again after this time, without charging an attempt.
    Snooze(Duration),
    /// The message is not wanted any more: deleted, and counted apart from `Done`.
    Discard {
        /// Why it was discarded.
        error: BoxError,
    },
    /// No retry can help: becomes a dead letter at once.
    Dead {
        /// Why it cannot be handled.
        error: BoxError,
    },
    /// The payload cannot be read: becomes a dead letter at once, with its bytes kept.
    Undecodable {
        /// What is wrong with it.
        error: BoxError,
    },
}

/// Why a message became a dead letter. The names are stored and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadReason {
    /// Every attempt failed.
    Exhausted,
    /// The handler said that no retry can help.
    Rejected,
    /// The payload could not be decoded.
    Undecodable,
    /// The process holding it died or stalled, [`MAX_LEASE_LOSSES`] times in a row.
    Crashed,
    /// The lease of the last attempt expired.
    LeaseExpired,
}

/// A message becomes a dead letter (`crashed`) when its lease was lost this often without a
/// settle in between: it probably kills the process that runs it.
pub const MAX_LEASE_LOSSES: u16 = 3;

impl DeadReason {
    /// The stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Rejected => "rejected",
            Self::Undecodable => "undecodable",
            Self::Crashed => "crashed",
            Self::LeaseExpired => "lease_expired",
        }
    }

    /// The reason of a stored name, if this build knows it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Exhausted,
            Self::Rejected,
            Self::Undecodable,
            Self::Crashed,
            Self::LeaseExpired,
        ]
        .into_iter()
        .find(|reason| reason.as_str() == name)
    }

    /// What a message becomes whose lease expired: `None` means that it runs again.
    ///
    /// `attempts` counts the lost one, `lease_losses` does not.
    #[must_use]
    pub const fn of_expired_lease(
        attempts: u16,
        max_attempts: u16,
        lease_losses: u16,
    ) -> Option<Self> {
        if lease_losses + 1 >= MAX_LEASE_LOSSES {
            Some(Self::Crashed)
        } else if attempts >= max_attempts {
            Some(Self::LeaseExpired)
        } else {
            None
        }
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a settle writes about one message.
///
/// Complete, unlike most enums here: a storage has to write each of them, and is told by the
/// compiler of one that it does not know.
///
/// A worker sends delays of at most [`MAX_DELAY`](crate::MAX_DELAY), and error texts without NUL of
/// at most [`MAX_ERROR_BYTES`]: a storage need not cut them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Delete the message: its work is done.
    Done,
    /// Delete the message: it is not wanted any more.
    Discard,
    /// End the lease and make the message available `after` the storage's present time. The
    /// attempt stays charged; `lease_losses` starts again at zero.
    Retry {
        /// Delay, added by the storage's clock.
        after: Duration,
        /// Why the attempt failed, as text; see [`error_text`].
        error: String,
    },
    /// End the lease, refund the attempt, make the message available `after` the storage's
    /// present time; `lease_losses` starts again at zero.
    Snooze {
        /// Delay, added by the storage's clock.
        after: Duration,
    },
    /// End the lease and refund the attempt; everything else stays, so that the message is
    /// available at once and in its old place.
    Release,
    /// Delete the message and keep it as a dead letter.
    Dead {
        /// Why.
        reason: DeadReason,
        /// The last error, as text; see [`error_text`].
        error: String,
    },
}

/// One message to settle. It is written only while `token` still holds the message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settlement {
    /// The message.
    pub id: MessageId,
    /// The token of the claim that leased it.
    pub token: LeaseToken,
    /// What to write.
    pub verdict: Verdict,
}

impl Settlement {
    /// Writes `verdict` about the message while the token still holds it.
    #[must_use]
    pub const fn new(held: Held, verdict: Verdict) -> Self {
        Self {
            id: held.id,
            token: held.token,
            verdict,
        }
    }
}

/// Longest error text kept with a message, in bytes.
pub const MAX_ERROR_BYTES: usize = 8 * 1024;

/// The text stored for an error: the whole chain of causes, at most [`MAX_ERROR_BYTES`] long,
/// with NUL replaced, which text columns refuse. An error that is its own cause, or whose text
/// never ends, is cut at that length.
#[must_use]
pub fn error_text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = Bounded(String::new());
    let mut next = Some(error);
    while let Some(error) = next {
        if write!(text, "{error}").is_err() {
            break;
        }
        next = error.source();
        if next.is_some() && text.write_str(": ").is_err() {
            break;
        }
    }
    clip_error(text.0)
}

/// Refuses more once it holds too much, which ends the writing of an endless text.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push_str(text);
        if self.0.len() > MAX_ERROR_BYTES {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

/// Cuts and cleans a text so that every storage can keep it as an error.
#[must_use]
pub fn clip_error(mut text: String) -> String {
    const MARK: &str = "... [cut]";
    if text.contains('\0') {
        text = text.replace('\0', "\u{fffd}");
    }
    if text.len() > MAX_ERROR_BYTES {
        let mut end = MAX_ERROR_BYTES - MARK.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(MARK);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_loss_in_a_row_is_a_crash() {
        assert_eq!(DeadReason::of_expired_lease(1, 10, 0), None);
        assert_eq!(DeadReason::of_expired_lease(1, 10, 1), None);
        assert_eq!(
            DeadReason::of_expired_lease(1, 10, 2),
            Some(DeadReason::Crashed)
        );
    }

    #[test]
    fn a_lease_that_expires_on_the_last_attempt_is_a_dead_letter() {
        assert_eq!(
            DeadReason::of_expired_lease(10, 10, 0),
            Some(DeadReason::LeaseExpired)
        );
        assert_eq!(DeadReason::of_expired_lease(9, 10, 0), None);
    }

    #[test]
    fn stored_names_are_pinned() {
        for (reason, name) in [
            (DeadReason::Exhausted, "exhausted"),
            (DeadReason::Rejected, "rejected"),
            (DeadReason::Undecodable, "undecodable"),
            (DeadReason::Crashed, "crashed"),
            (DeadReason::LeaseExpired, "lease_expired"),
        ] {
            assert_eq!(reason.as_str(), name);
            assert_eq!(DeadReason::from_name(name), Some(reason));
        }
        assert_eq!(DeadReason::from_name("else"), None);
    }

    #[test]
    fn error_text_holds_the_chain_and_no_nul() {
        let inner = std::io::Error::other("disk\0full");
        let outer = crate::Error::new(crate::ErrorKind::Storage, "settle", "no").with_source(inner);
        let text = error_text(&outer);
        assert!(text.ends_with(": disk\u{fffd}full"), "{text}");
    }

    #[test]
    fn long_error_text_is_cut_on_a_character_boundary_and_says_so() {
        let text = clip_error("ä".repeat(MAX_ERROR_BYTES));
        assert!(text.len() <= MAX_ERROR_BYTES);
        assert!(text.ends_with("ä... [cut]"));
        let short = clip_error("short".to_owned());
        assert_eq!(short, "short");
    }
}
