//! The producer: writes messages where the caller writes, and nowhere else. It holds no
//! connection, so it cannot write outside the caller's transaction.

use std::fmt;
use std::sync::Arc;

use outbox_core::{Cancel, DEFAULT_MAX_PAYLOAD_BYTES, Error, IntoDraft, MessageId, check_name};
use sqlx::SqliteConnection;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};

use super::codec::due;
use super::error::storage_error;
use super::lot::inserts;
use super::prefix::TablePrefix;
use crate::batch::{Batch, chunks};
use crate::enqueued::{Enqueued, cancel_of};
use crate::headers::headers_json;
use crate::rows::Fields;
use crate::statements::SqliteStatements;

/// Enqueues and cancels in the caller's transaction. Cloning is cheap.
///
/// Every method takes `&mut SqliteConnection`, which `&mut tx` of a [`sqlx::Transaction`], a
/// savepoint and a connection of a pool turn into by themselves.
///
/// # Your connections
/// SQLite lets one transaction write at a time; the others wait, or are told that the database is
/// locked. What they are told is decided by settings of yours:
///
/// - `journal_mode(SqliteJournalMode::Wal)`, so that readers and the writer do not wait for each
///   other. [`SqliteStorage::migrate`](super::SqliteStorage::migrate) sets it in the file, for
///   every connection.
/// - `busy_timeout`, how long a connection waits for the others; sqlx's default is 5 seconds. SQLite
///   keeps no queue: where many write all the time, let those of one process share a connection.
/// - `begin_with("begin immediate")` for every transaction that writes. A plain `begin()` asks for
///   the write lock at its first write; if it read something before, and somebody else has written
///   since, it is refused at once, whatever the timeout.
///
/// Keep such transactions short: workers cannot claim, settle or renew while one of them is open.
///
/// # Cancellation
/// Dropping a future leaves the caller's connection to finish the statement by itself, as with
/// every statement of sqlx: let the transaction roll back.
///
/// # Errors
/// A message that breaks a rule is refused with [`ErrorKind::InvalidMessage`](outbox_core::ErrorKind::InvalidMessage) or
/// [`ErrorKind::Codec`](outbox_core::ErrorKind::Codec) *before* anything is sent: the transaction can go on. After an error of
/// the database let it roll back.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use outbox_core::Draft;
/// use outbox_sqlx::sqlite::SqliteOutbox;
/// use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
///
/// let options = SqliteConnectOptions::new()
///     .filename("shop.db")
///     .create_if_missing(true)
///     .journal_mode(SqliteJournalMode::Wal)
///     .busy_timeout(Duration::from_secs(5));
/// let pool = SqlitePool::connect_with(options).await?;
///
/// let outbox = SqliteOutbox::new();
/// let mut tx = pool.begin_with("begin immediate").await?;
/// sqlx::query("insert into account (name) values ('ann')").execute(&mut *tx).await?;
/// outbox.enqueue(&mut tx, Draft::json("mail", "welcome", &"ann")).await?;
/// tx.commit().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqliteOutbox {
    prefix: TablePrefix,
    statements: Arc<SqliteStatements>,
    max_payload_bytes: usize,
}

impl fmt::Debug for SqliteOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteOutbox")
            .field("prefix", &self.prefix)
            .field("max_payload_bytes", &self.max_payload_bytes)
            .finish_non_exhaustive()
    }
}

impl Default for SqliteOutbox {
    fn default() -> Self {
        Self::new()
    }
}

impl SqliteOutbox {
    /// A producer for the tables `outbox_..`.
    #[must_use]
    pub fn new() -> Self {
        let prefix = TablePrefix::default();
        let statements = Arc::new(SqliteStatements::new(&prefix));
        Self::of_prefix(prefix, statements)
    }

    /// A producer for tables whose names begin otherwise.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](outbox_core::ErrorKind::InvalidConfig) for a prefix that [`TablePrefix`] does not allow.
    pub fn with_prefix(name: &str) -> Result<Self, Error> {
        let prefix = TablePrefix::new(name)?;
        let statements = Arc::new(SqliteStatements::new(&prefix));
        Ok(Self::of_prefix(prefix, statements))
    }

    pub(super) fn of_prefix(prefix: TablePrefix, statements: Arc<SqliteStatements>) -> Self {
        Self {
            prefix,
            statements,
            max_payload_bytes: DEFAULT_MAX_PAYLOAD_BYTES,
        }
    }

    /// Sets the largest payload in bytes; default 1 MiB.
    #[must_use]
    pub fn max_payload_bytes(mut self, bytes: usize) -> Self {
        self.max_payload_bytes = bytes;
        self
    }

    /// Writes one message in the caller's transaction: it exists if and only if that commits.
    ///
    /// # Errors
    /// As said for [`SqliteOutbox`].
    pub async fn enqueue(
        &self,
        connection: &mut SqliteConnection,
        message: impl IntoDraft,
    ) -> Result<Enqueued, Error> {
        let new = message.into_draft().check(self.max_payload_bytes)?;
        let (delay, due_at) = due(&new);
        let row = sqlx::query(self.statements.enqueue.clone())
            .bind(new.queue.as_ref())
            .bind(new.kind.as_ref())
            .bind(new.payload)
            .bind(new.content_type.as_ref())
            .bind(headers_json(&new.headers))
            .bind(new.priority)
            .bind(new.key)
            .bind(new.group)
            .bind(new.tag)
            .bind(new.max_attempts)
            .bind(delay)
            .bind(due_at)
            .fetch_optional(connection)
            .await;
        let id = row.and_then(|row| row.map(|row| row.id("id")).transpose());
        id.map(Enqueued::of)
            .map_err(|error| storage_error("enqueue", error))
    }

    /// Writes messages in order, and returns one entry for each, in the same order.
    ///
    /// All are checked before the first is sent. They go in statements of up to 500 messages, so
    /// it is the caller's transaction that makes them one: on a connection outside of one, each
    /// statement commits by itself. Of several messages with one queue and key the first is
    /// written.
    ///
    /// # Errors
    /// As said for [`SqliteOutbox`].
    pub async fn enqueue_many(
        &self,
        connection: &mut SqliteConnection,
        messages: impl IntoIterator<Item = impl IntoDraft>,
    ) -> Result<Vec<Enqueued>, Error> {
        let checked = messages.into_iter().map(|message| {
            let draft = message.into_draft();
            draft.check(self.max_payload_bytes)
        });
        let messages = checked.collect::<Result<Vec<_>, _>>()?;
        let mut enqueued = Vec::with_capacity(messages.len());
        for chunk in chunks(&messages) {
            let batch = Batch::new(chunk);
            let written = async {
                let mut rows = Vec::new();
                for insert in inserts(&self.statements, &batch) {
                    rows.append(&mut insert.fetch_all(&mut *connection).await?);
                }
                read_written(&batch, rows)
            };
            let ids = written.await;
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
        connection: &mut SqliteConnection,
        id: MessageId,
    ) -> Result<Cancel, Error> {
        let cancel = sqlx::query(self.statements.cancel_by_id.clone()).bind(id.0);
        let find = sqlx::query(self.statements.find_by_id.clone()).bind(id.0);
        cancelled(connection, cancel, find).await
    }

    /// Deletes the message of a queue and key if it is not being handled, in the caller's
    /// transaction.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidMessage`](outbox_core::ErrorKind::InvalidMessage) for a queue or key that no message can have; an error of the
    /// database.
    pub async fn cancel_key(
        &self,
        connection: &mut SqliteConnection,
        queue: &str,
        key: &str,
    ) -> Result<Cancel, Error> {
        check_name("queue", queue)?;
        check_name("key", key)?;
        let of_key = |sql: &sqlx::SqlStr| {
            let query = sqlx::query(sql.clone());
            query.bind(queue.to_owned()).bind(key.to_owned())
        };
        let cancel = of_key(&self.statements.cancel_by_key);
        let find = of_key(&self.statements.find_by_key);
        cancelled(connection, cancel, find).await
    }
}

/// Deletes first and looks afterwards: a transaction that reads first cannot write any more once
/// somebody else has written.
async fn cancelled(
    connection: &mut SqliteConnection,
    cancel: Query<'_, Sqlite, SqliteArguments>,
    find: Query<'_, Sqlite, SqliteArguments>,
) -> Result<Cancel, Error> {
    let found = async {
        if cancel.fetch_optional(&mut *connection).await?.is_some() {
            return Ok(cancel_of(true, true));
        }
        let found = find.fetch_optional(&mut *connection).await?;
        Ok(cancel_of(false, found.is_some()))
    };
    found.await.map_err(|error| storage_error("cancel", error))
}

/// One id for each message of a batch, `None` where its key was live.
pub(super) fn read_written(
    batch: &Batch<'_>,
    rows: Vec<SqliteRow>,
) -> Result<Vec<Option<MessageId>>, sqlx::Error> {
    let with_id = rows.into_iter().map(|row| Ok((row.id("id")?, row)));
    let mut with_id = with_id.collect::<Result<Vec<_>, sqlx::Error>>()?;
    // "returning" promises no order, and ids grow in the order of the messages.
    with_id.sort_unstable_by_key(|(id, _)| *id);
    let rows: Vec<SqliteRow> = with_id.into_iter().map(|(_, row)| row).collect();
    batch.match_written(&rows)
}
