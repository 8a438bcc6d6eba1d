//! What a producer is told.

use outbox_core::{Cancel, MessageId};

/// What enqueueing did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// The message was written.
    New(MessageId),
    /// A live message of the same queue and key exists; nothing was written.
    Duplicate,
}

impl Enqueued {
    /// The id of the message that was written.
    #[must_use]
    pub const fn id(self) -> Option<MessageId> {
        match self {
            Self::New(id) => Some(id),
            Self::Duplicate => None,
        }
    }

    pub(crate) const fn of(id: Option<MessageId>) -> Self {
        match id {
            Some(id) => Self::New(id),
            None => Self::Duplicate,
        }
    }
}

/// What became of a cancel: whether the message was deleted, and whether it was there at all.
pub(crate) const fn cancel_of(cancelled: bool, found: bool) -> Cancel {
    match (cancelled, found) {
        (true, _) => Cancel::Cancelled,
        (false, true) => Cancel::Leased,
        (false, false) => Cancel::NotFound,
    }
}
