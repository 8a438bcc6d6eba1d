//! The storage a worker uses: each verb of the seam as one statement, or as one transaction sent as
//! a whole.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{
    BoxStream, Claim, ClaimRequest, Error, MessageId, NewMessage, Renewal, Renewed, Runtime,
    Settled, Settlement, Storage,
};
use sqlx::sqlite::SqliteConnectOptions;

use super::connect::{Durability, options_of, own_connection};
use super::error::storage_error;
use super::lane::Lane;
use super::lot::transaction;
use super::prefix::TablePrefix;
use super::producer::{SqliteOutbox, read_written};
use super::texts::Texts;
use super::{check, claim, settle, wake_ups};
use crate::batch::Batch;
use crate::statements::SqliteStatements;

/// How often a worker looks whether anybody has committed. Measured on two slow cores, an idle
/// worker takes 0.6 % of one of them with this interval (a third of it the timer), 2 % with 5 ms.
const DEFAULT_WAKE_UP_INTERVAL: Duration = Duration::from_millis(20);

/// A SQLite file as the storage of a worker. Cloning is cheap; clones share connections.
///
/// It has connections of its own, each with a thread: one for claims and settles, one for renewals,
/// one more while a worker runs, which looks for commits of others, and one more once something is
/// enqueued or revived through the storage itself. They are opened on first use. It never touches
/// the caller's pool.
///
/// SQLite lets one transaction write at a time. Ours take a fraction of a millisecond each, and
/// wait up to 5 seconds for the caller's; keep those short, and see
/// [`SqliteOutbox`] for how to begin them.
///
/// The file has to be on a disk of this host: the write-ahead log does not work across a network.
///
/// # Cancellation
/// Every method may be dropped at any time. What was under way then has an unknown outcome, its
/// connection is closed, and the next call opens another.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use outbox_sqlx::sqlite::SqliteStorage;
///
/// let storage = SqliteStorage::connect("shop.db").await?;
/// storage.migrate().await?;
/// let outbox = storage.outbox();
/// # let _ = outbox;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqliteStorage {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) prefix: TablePrefix,
    pub(super) statements: Arc<SqliteStatements>,
    pub(super) texts: Texts,
    pub(super) options: SqliteConnectOptions,
    pub(super) wake_up_interval: Option<Duration>,
    /// Claims, settles and most of what an operator asks.
    pub(super) control: Lane,
    /// Renewals only: they must not wait behind a claim that waits for the write lock.
    renewal: Lane,
    /// What has to survive a loss of power.
    pub(super) durable: Lane,
}

impl fmt::Debug for SqliteStorage {
    /// The connection options are left out: they may hold a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStorage")
            .field("prefix", &self.inner.prefix)
            .field("file", &self.inner.options.get_filename())
            .finish_non_exhaustive()
    }
}

/// Settings of a [`SqliteStorage`].
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until they connect"]
pub struct SqliteStorageOptions {
    prefix: Option<String>,
    wake_up_interval: Option<Duration>,
}

impl Default for SqliteStorageOptions {
    fn default() -> Self {
        Self {
            prefix: None,
            wake_up_interval: Some(DEFAULT_WAKE_UP_INTERVAL),
        }
    }
}

impl SqliteStorageOptions {
    /// Sets what the names of the tables begin with; default `outbox`. See [`TablePrefix`] for what
    /// is allowed.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Sets how often a worker looks whether anybody has committed; default 20 ms. This is about
    /// latency and never about delivery: with `None` workers find messages by polling alone.
    pub fn wake_up_interval(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.wake_up_interval = interval.into();
        self
    }

    /// As [`SqliteStorage::connect`].
    ///
    /// # Errors
    /// As [`SqliteStorage::connect`], and [`InvalidConfig`](outbox_core::ErrorKind::InvalidConfig) for
    /// the prefix.
    pub async fn connect(self, url: &str) -> Result<SqliteStorage, Error> {
        self.connect_with(options_of(url)?).await
    }

    /// As [`SqliteStorage::connect_with`].
    ///
    /// # Errors
    /// As [`SqliteStorage::connect`], and [`InvalidConfig`](outbox_core::ErrorKind::InvalidConfig) for
    /// the prefix.
    pub async fn connect_with(self, options: SqliteConnectOptions) -> Result<SqliteStorage, Error> {
        let storage = self.prepare(options)?;
        storage.inner.control.open().await?;
        Ok(storage)
    }

    /// Makes the storage without opening the file: the first call will.
    ///
    /// # Errors
    /// [`InvalidConfig`](outbox_core::ErrorKind::InvalidConfig) for the prefix.
    pub fn prepare(self, options: SqliteConnectOptions) -> Result<SqliteStorage, Error> {
        let prefix = match &self.prefix {
            Some(name) => TablePrefix::new(name)?,
            None => TablePrefix::default(),
        };
        let statements = Arc::new(SqliteStatements::new(&prefix));
        let lane = |durability| {
            let options = own_connection(options.clone(), durability);
            Lane::new(options, statements.clone())
        };
        Ok(SqliteStorage {
            inner: Arc::new(Inner {
                control: lane(Durability::Relaxed),
                renewal: lane(Durability::Relaxed),
                durable: lane(Durability::Full),
                prefix,
                texts: Texts::new(&statements),
                options: own_connection(options.clone(), Durability::Relaxed),
                wake_up_interval: self.wake_up_interval,
                statements: statements.clone(),
            }),
        })
    }
}

impl SqliteStorage {
    /// Opens a file with the default settings: a path, or `sqlite://path`. The file is made where
    /// there is none, unless the URL says `?mode=rw`.
    ///
    /// # Errors
    /// [`InvalidConfig`](outbox_core::ErrorKind::InvalidConfig) for a URL that cannot be read or is
    /// not one of SQLite, for a file that cannot be opened or is no database, and for a database in
    /// memory.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        Self::options().connect(url).await
    }

    /// Opens what `options` say with the default settings. The busy timeout and `synchronous` of
    /// the connections are set by this crate.
    ///
    /// # Errors
    /// As [`SqliteStorage::connect`].
    pub async fn connect_with(options: SqliteConnectOptions) -> Result<Self, Error> {
        Self::options().connect_with(options).await
    }

    /// The default settings, to be changed.
    pub fn options() -> SqliteStorageOptions {
        SqliteStorageOptions::default()
    }

    /// A producer for the same tables.
    #[must_use]
    pub fn outbox(&self) -> SqliteOutbox {
        SqliteOutbox::of_prefix(self.inner.prefix.clone(), self.inner.statements.clone())
    }

    /// What the names of the tables begin with.
    #[must_use]
    pub fn prefix(&self) -> &TablePrefix {
        &self.inner.prefix
    }
}

#[async_trait]
impl Storage for SqliteStorage {
    async fn check(&self) -> Result<(), Error> {
        check::check(&self.inner).await
    }

    async fn enqueue(&self, messages: Vec<NewMessage>) -> Result<Vec<Option<MessageId>>, Error> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let batch = Batch::new(&messages);
        let query = transaction(&self.inner.statements, &batch);
        let rows = self.inner.durable.fetch("enqueue", query).await?;
        read_written(&batch, rows).map_err(|error| storage_error("enqueue", error))
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        claim::claim(&self.inner, request).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Settled, Error> {
        settle::settle(&self.inner, settlements).await
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed, Error> {
        settle::renew(&self.inner, &self.inner.renewal, renewals).await
    }

    fn wake_ups(&self, _: Vec<Arc<str>>, runtime: Arc<dyn Runtime>) -> BoxStream<'static, ()> {
        wake_ups::wake_ups(&self.inner, runtime)
    }
}

#[cfg(test)]
mod tests {
    use outbox_testkit::sqlite::TestFile;

    use super::*;

    /// `pragma synchronous` of a lane: 1 is normal, 2 is full.
    async fn synchronous(lane: &Lane) -> i64 {
        let rows = lane.fetch("test", sqlx::query("pragma synchronous")).await;
        let rows = rows.expect("the file can be opened");
        sqlx::Row::get(&rows[0], "synchronous")
    }

    #[tokio::test]
    async fn what_somebody_was_told_is_written_survives_a_loss_of_power() {
        let file = TestFile::new().expect("there is a place for temporary files");
        // Whatever the caller's own connections do.
        let storage = SqliteStorage::options().prepare(file.options());
        let inner = storage.expect("the default names are valid").inner;
        assert_eq!(synchronous(&inner.durable).await, 2);
        assert_eq!(synchronous(&inner.control).await, 1);
        assert_eq!(synchronous(&inner.renewal).await, 1);
    }
}
