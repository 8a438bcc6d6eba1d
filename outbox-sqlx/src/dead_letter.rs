//! Dead letters as an operator asks for them and sees them.

use std::fmt;
use std::time::SystemTime;

use outbox_core::{DeadReason, Headers, MessageId};

use crate::headers::headers_from;
use crate::rows::Fields;

/// Dead letters of one page unless the query says otherwise.
const DEFAULT_LIMIT: u32 = 100;

/// Dead letters of one statement of a purge at most.
pub(crate) const PURGE_LOT: i64 = 1_000;

/// Which dead letters to list.
#[derive(Clone, Debug)]
#[must_use = "a query lists nothing by itself"]
pub struct DeadLetterQuery {
    pub(crate) queue: Option<String>,
    pub(crate) after: MessageId,
    pub(crate) limit: u32,
}

impl Default for DeadLetterQuery {
    fn default() -> Self {
        Self {
            queue: None,
            after: MessageId(0),
            limit: DEFAULT_LIMIT,
        }
    }
}

impl DeadLetterQuery {
    /// Those of every queue, from the first, at most 100.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only those of one queue.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Only those with a larger id: give the last id of a page to get the next page.
    pub fn after(mut self, id: MessageId) -> Self {
        self.after = id;
        self
    }

    /// At most this many.
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }
}

/// A message that was given up, with everything it had.
#[derive(Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The id it had as a message, and has again when it is revived.
    pub id: MessageId,
    /// Its queue.
    pub queue: String,
    /// Its kind.
    pub kind: String,
    /// Its content, byte for byte.
    pub payload: Vec<u8>,
    /// How the content is encoded.
    pub content_type: String,
    /// Its headers.
    pub headers: Headers,
    /// Its priority.
    pub priority: i16,
    /// Its deduplication key, which another message may have by now.
    pub key: Option<String>,
    /// Its group.
    pub group: Option<String>,
    /// The producer's own reference.
    pub tag: Option<String>,
    /// How many attempts it had made.
    pub attempts: u16,
    /// How many it could make.
    pub max_attempts: u16,
    /// How often it was claimed.
    pub deliveries: u32,
    /// How often its lease was lost since its last settle.
    pub lease_losses: u16,
    /// When it was enqueued, by the database's clock.
    pub created_at: SystemTime,
    /// When it was given up, by the same clock.
    pub died_at: SystemTime,
    /// Why, as stored; [`DeadReason::from_name`] reads the names this build knows.
    pub reason: String,
    /// The text of the last error.
    pub last_error: Option<String>,
}

impl DeadLetter {
    /// Why it was given up, if this build knows the reason.
    #[must_use]
    pub fn dead_reason(&self) -> Option<DeadReason> {
        DeadReason::from_name(&self.reason)
    }

    pub(crate) fn read(row: &impl Fields) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.id("message_id")?,
            queue: row.text("queue")?.into_owned(),
            kind: row.text("kind")?.into_owned(),
            payload: row.bytes("payload")?,
            content_type: row.text("content_type")?.into_owned(),
            headers: headers_from(row.optional_text("headers")?.as_deref()),
            priority: row.small("priority")?,
            key: row.optional_string("key")?,
            group: row.optional_string("group_key")?,
            tag: row.optional_string("tag")?,
            attempts: row.count("attempts")?,
            max_attempts: row.count("max_attempts")?,
            deliveries: row.deliveries("deliveries")?,
            lease_losses: row.count("lease_losses")?,
            created_at: row.instant("created_at")?.into(),
            died_at: row.instant("died_at")?.into(),
            reason: row.text("reason")?.into_owned(),
            last_error: row.optional_string("last_error")?,
        })
    }
}

impl fmt::Debug for DeadLetter {
    /// The payload is left out: it may hold personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("id", &self.id)
            .field("queue", &self.queue)
            .field("kind", &self.kind)
            .field("payload_bytes", &self.payload.len())
            .field("attempts", &self.attempts)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// What reviving a dead letter did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Revived {
    /// It is a message again, due now, with all its attempts.
    Revived,
    /// A live message has its key, or its id where ids began again; the dead letter stays.
    KeyTaken,
    /// There is no such dead letter.
    NotFound,
}
