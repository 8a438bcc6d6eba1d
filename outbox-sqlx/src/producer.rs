//! The producer: writes messages where the caller writes, and nowhere else. It holds no
//! connection, so it cannot write outside the caller's transaction.

use std::fmt;
use std::sync::Arc;

use outbox_core::{
    Cancel, DEFAULT_MAX_PAYLOAD_BYTES, Due, Error, IntoDraft, MessageId, NewMessage, check_name,
};
use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;
use sqlx::{PgConnection, Row};

use crate::batch::{Batch, chunks};
use crate::codec::interval;
use crate::columns::Columns;
use crate::enqueued::{Enqueued, cancel_of};
use crate::error::storage_error;
use crate::headers::headers_json;
use crate::schema_name::SchemaName;
use crate::statements::Statements;
use crate::timestamp::Timestamp;

/// When enqueueing wakes the workers that listen. Workers poll as well, so this is about
/// milliseconds of latency, never about delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WakeUps {
    /// The server sends the notification when the caller's transaction commits. Such commits take
    /// one lock of the whole server, and cannot be prepared (two-phase commit).
    #[default]
    InTransaction,
    /// Enqueueing sends none; the caller calls [`PgOutbox::announce`] after its commit. For busy
    /// producers.
    AfterCommit,
    /// None at all: workers find messages by polling.
    Off,
}

/// Enqueues and cancels in the caller's transaction. Cloning is cheap.
///
/// Every method takes `&mut PgConnection`, which `&mut tx` of a [`sqlx::Transaction`], a
/// savepoint and a connection of a pool turn into by themselves.
///
/// # Cancellation
/// Dropping a future leaves the caller's connection in the middle of a statement, as with every
/// statement of sqlx: let the transaction roll back.
///
/// # Errors
/// A message that breaks a rule is refused with [`ErrorKind::InvalidMessage`](outbox_core::ErrorKind::InvalidMessage) or
/// [`ErrorKind::Codec`](outbox_core::ErrorKind::Codec) *before* anything is sent: the transaction can go on. After an error of
/// the database it can only roll back.
///
/// ```no_run
/// # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// use outbox_core::Draft;
/// use outbox_sqlx::PgOutbox;
///
/// let outbox = PgOutbox::new();
/// let mut tx = pool.begin().await?;
/// sqlx::query("insert into account (name) values ('ann')").execute(&mut *tx).await?;
/// outbox.enqueue(&mut tx, Draft::json("mail", "welcome", &"ann")).await?;
/// tx.commit().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PgOutbox {
    schema: SchemaName,
    statements: Arc<Statements>,
    wake_ups: WakeUps,
    max_payload_bytes: usize,
}

impl fmt::Debug for PgOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgOutbox")
            .field("schema", &self.schema)
            .field("wake_ups", &self.wake_ups)
            .field("max_payload_bytes", &self.max_payload_bytes)
            .finish_non_exhaustive()
    }
}

impl Default for PgOutbox {
    fn default() -> Self {
        Self::new()
    }
}

impl PgOutbox {
    /// A producer for the schema `outbox`.
    #[must_use]
    pub fn new() -> Self {
        let schema = SchemaName::default();
        let statements = Arc::new(Statements::new(&schema));
        Self::of_schema(schema, statements, WakeUps::default())
    }

    /// A producer for another schema.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](outbox_core::ErrorKind::InvalidConfig) for a name that [`SchemaName`] does not allow.
    pub fn with_schema(name: &str) -> Result<Self, Error> {
        let schema = SchemaName::new(name)?;
        let statements = Arc::new(Statements::new(&schema));
        Ok(Self::of_schema(schema, statements, WakeUps::default()))
    }

    pub(crate) fn of_schema(
        schema: SchemaName,
        statements: Arc<Statements>,
        wake_ups: WakeUps,
    ) -> Self {
        Self {
            schema,
            statements,
            wake_ups,
            max_payload_bytes: DEFAULT_MAX_PAYLOAD_BYTES,
        }
    }

    /// Sets when workers are woken; default [`WakeUps::InTransaction`].
    #[must_use]
    pub fn wake_ups(mut self, wake_ups: WakeUps) -> Self {
        self.wake_ups = wake_ups;
        self
    }

    /// Sets the largest payload in bytes; default 1 MiB.
    #[must_use]
    pub fn max_payload_bytes(mut self, bytes: usize) -> Self {
        self.max_payload_bytes = bytes;
        self
    }

    /// Writes one message in the caller's transaction: it exists if and only if that commits.
    ///
    /// With a key, waits for a transaction that is writing or removing the same key.
    ///
    /// # Errors
    /// As said for [`PgOutbox`].
    pub async fn enqueue(
        &self,
        connection: &mut PgConnection,
        message: impl IntoDraft,
    ) -> Result<Enqueued, Error> {
        let new = message.into_draft().check(self.max_payload_bytes)?;
        let (delay, due_at) = due(&new);
        let row = sqlx::query(self.statements.enqueue.clone())
            .bind(new.queue.as_ref())
            .bind(new.kind.as_ref())
            .bind(new.payload.as_slice())
            .bind(new.content_type.as_ref())
            .bind(headers_json(&new.headers))
            .bind(new.priority)
            .bind(&new.key)
            .bind(&new.group)
            .bind(&new.tag)
            .bind(max_attempts(&new))
            .bind(delay)
            .bind(due_at)
            .bind(self.schema.channel())
            .bind(self.wakes())
            .fetch_optional(connection)
            .await
            .map_err(|error| storage_error("enqueue", error))?;
        let id = row
            .map(|row| row.try_get("id").map(MessageId))
            .transpose()
            .map_err(|error| storage_error("enqueue", error))?;
        Ok(Enqueued::of(id))
    }

    /// Writes messages in order, and returns one entry for each, in the same order.
    ///
    /// All are checked before the first is sent. They go in statements of up to 5,000 messages, so
    /// it is the caller's transaction that makes them one: on a connection outside of one, each
    /// statement commits by itself. Of several messages with one queue and key in a statement only
    /// the first is tried.
    ///
    /// # Errors
    /// As said for [`PgOutbox`].
    pub async fn enqueue_many(
        &self,
        connection: &mut PgConnection,
        messages: impl IntoIterator<Item = impl IntoDraft>,
    ) -> Result<Vec<Enqueued>, Error> {
        let messages = messages
            .into_iter()
            .map(|message| message.into_draft().check(self.max_payload_bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let mut enqueued = Vec::with_capacity(messages.len());
        for chunk in chunks(&messages) {
            let batch = Batch::new(chunk);
            let columns = Columns::new(&batch);
            let channel = self.schema.channel();
            let rows = columns
                .query(&self.statements, &channel, self.wakes())
                .fetch_all(&mut *connection)
                .await
                .map_err(|error| storage_error("enqueue", error))?;
            let ids = batch.match_written(&rows);
            let ids = ids.map_err(|error| storage_error("enqueue", error))?;
            enqueued.extend(ids.into_iter().map(Enqueued::of));
        }
        Ok(enqueued)
    }

    /// Deletes a message that is not being handled, in the caller's transaction.
    ///
    /// # Errors
    /// An error of the database.
    pub async fn cancel(
        &self,
        connection: &mut PgConnection,
        id: MessageId,
    ) -> Result<Cancel, Error> {
        let query = sqlx::query(self.statements.cancel_by_id.clone()).bind(id.0);
        cancelled(query.fetch_one(connection).await)
    }

    /// Deletes the message of a queue and key if it is not being handled, in the caller's
    /// transaction.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidMessage`](outbox_core::ErrorKind::InvalidMessage) for a queue or key that no message can have; an error of the
    /// database.
    pub async fn cancel_key(
        &self,
        connection: &mut PgConnection,
        queue: &str,
        key: &str,
    ) -> Result<Cancel, Error> {
        check_name("queue", queue)?;
        check_name("key", key)?;
        let query = sqlx::query(self.statements.cancel_by_key.clone())
            .bind(queue)
            .bind(key);
        cancelled(query.fetch_one(connection).await)
    }

    /// Wakes the workers of these queues, once each. For [`WakeUps::AfterCommit`]: call it after
    /// the commit, on any connection.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidMessage`](outbox_core::ErrorKind::InvalidMessage) for a queue that no message can have; an error of the
    /// database, after which the workers find the messages by polling.
    pub async fn announce(
        &self,
        connection: &mut PgConnection,
        queues: &[&str],
    ) -> Result<(), Error> {
        for queue in queues {
            check_name("queue", queue)?;
        }
        sqlx::query(self.statements.announce.clone())
            .bind(self.schema.channel())
            .bind(queues)
            .fetch_one(connection)
            .await
            .map_err(|error| storage_error("announce", error))?;
        Ok(())
    }

    fn wakes(&self) -> bool {
        self.wake_ups == WakeUps::InTransaction
    }
}

fn cancelled(row: Result<PgRow, sqlx::Error>) -> Result<Cancel, Error> {
    let answer =
        row.and_then(|row| Ok(cancel_of(row.try_get("cancelled")?, row.try_get("found")?)));
    answer.map_err(|error| storage_error("cancel", error))
}

pub(crate) fn due(message: &NewMessage) -> (PgInterval, Option<Timestamp>) {
    match message.due {
        Due::Now => (PgInterval::default(), None),
        Due::After(delay) => (interval(delay), None),
        Due::At(instant) => (PgInterval::default(), Some(instant.into())),
    }
}

pub(crate) fn max_attempts(message: &NewMessage) -> i16 {
    i16::try_from(message.max_attempts).unwrap_or(i16::MAX)
}
