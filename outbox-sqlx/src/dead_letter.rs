//! Dead letters: reading them, making them messages again, and deleting them for good.

use std::fmt;
use std::time::{Duration, SystemTime};

use outbox_core::{DeadReason, Error, Headers, MessageId};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::codec::{Timestamp, headers_from, interval};
use crate::error::storage_error;
use crate::lane::Repeat;
use crate::producer::WakeUps;
use crate::rows::count;
use crate::storage::PgStorage;

/// Dead letters of one page unless the query says otherwise.
const DEFAULT_LIMIT: u32 = 100;

/// Which dead letters to list.
#[derive(Clone, Debug)]
#[must_use = "a query lists nothing by itself"]
pub struct DeadLetterQuery {
    queue: Option<String>,
    after: MessageId,
    limit: u32,
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

    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: MessageId(row.try_get("message_id")?),
            queue: row.try_get("queue")?,
            kind: row.try_get("kind")?,
            payload: row.try_get("payload")?,
            content_type: row.try_get("content_type")?,
            headers: headers_from(row.try_get("headers")?),
            priority: row.try_get("priority")?,
            key: row.try_get("key")?,
            group: row.try_get("group_key")?,
            tag: row.try_get("tag")?,
            attempts: count(row.try_get("attempts")?),
            max_attempts: count(row.try_get("max_attempts")?),
            deliveries: u32::try_from(row.try_get::<i32, _>("deliveries")?).unwrap_or(0),
            lease_losses: count(row.try_get("lease_losses")?),
            created_at: row.try_get::<Timestamp, _>("created_at")?.into(),
            died_at: row.try_get::<Timestamp, _>("died_at")?.into(),
            reason: row.try_get("reason")?,
            last_error: row.try_get("last_error")?,
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
    /// A live message has its key; the dead letter stays.
    KeyTaken,
    /// There is no such dead letter.
    NotFound,
}

impl PgStorage {
    /// Lists dead letters, ordered by id.
    ///
    /// # Errors
    /// An error of the database.
    pub async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetter>, Error> {
        let sql = &self.inner.statements.dead_letters;
        let answer = self
            .inner
            .control
            .fetch("dead_letters", Repeat::Harmless, || {
                sqlx::query(sql.clone())
                    .bind(&query.queue)
                    .bind(query.after.0)
                    .bind(i64::from(query.limit))
            })
            .await?;
        answer
            .rows
            .iter()
            .map(DeadLetter::read)
            .collect::<Result<_, _>>()
            .map_err(|error| storage_error("dead_letters", error))
    }

    /// Makes a dead letter a message again: the same id and content, due now, with attempts and
    /// lease losses from zero. Its count of deliveries goes on.
    ///
    /// # Errors
    /// An error of the database.
    pub async fn revive(&self, id: MessageId) -> Result<Revived, Error> {
        let sql = &self.inner.statements.revive;
        let channel = self.inner.schema.channel();
        let wake = self.inner.wake_ups != WakeUps::Off;
        let answer = self
            .inner
            .control
            .fetch("revive", Repeat::Never, || {
                sqlx::query(sql.clone())
                    .bind(id.0)
                    .bind(&channel)
                    .bind(wake)
            })
            .await;
        match answer {
            Ok(answer) if answer.rows.is_empty() => Ok(Revived::NotFound),
            Ok(_) => Ok(Revived::Revived),
            Err(failed) if failed.code() == Some("23505") => Ok(Revived::KeyTaken),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Deletes dead letters for good that died more than `age` ago, of one queue or of all.
    /// Returns how many.
    ///
    /// # Errors
    /// An error of the database.
    pub async fn purge_dead_letters(
        &self,
        queue: Option<&str>,
        age: Duration,
    ) -> Result<u64, Error> {
        let sql = &self.inner.statements.purge_dead_letters;
        let answer = self
            .inner
            .control
            .fetch("purge", Repeat::Never, || {
                sqlx::query(sql.clone()).bind(queue).bind(interval(age))
            })
            .await?;
        let purged = answer
            .rows
            .first()
            .map(|row| row.try_get::<i64, _>("purged"))
            .transpose()
            .map_err(|error| storage_error("purge", error))?;
        Ok(purged
            .and_then(|purged| u64::try_from(purged).ok())
            .unwrap_or(0))
    }
}
