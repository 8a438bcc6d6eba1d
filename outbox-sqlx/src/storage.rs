//! The storage a worker uses: each verb of the seam as one statement.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use outbox_core::{
    BoxStream, Claim, ClaimRequest, Due, Error, ErrorKind, Housekeeping, MessageId, NewMessage,
    Renewal, Renewed, Runtime, Settled, Settlement, Storage,
};
use sqlx::postgres::PgConnectOptions;

use crate::batch::Batch;
use crate::columns::Columns;
use crate::connect::{for_control, for_vacuum, options_of, own_connection};
use crate::error::storage_error;
use crate::house::House;
use crate::lane::{Lane, Lanes, Repeat};
use crate::neighbours::Neighbours;
use crate::producer::{PgOutbox, WakeUps};
use crate::schema_name::SchemaName;
use crate::statements::Statements;
use crate::watermark::Watermarks;
use crate::{check, claim, housekeep, listener, renew, settle};

/// A Postgres database as the storage of a worker. Cloning is cheap; clones share connections.
///
/// It has connections of its own: two at most for claims, settles and operators, the second once two
/// calls met (see [`PgStorageOptions::concurrent_exchanges`]), one for renewals, which must not wait
/// for the former, and one while a worker listens; with [`Durability::Relaxed`] one more for what must
/// be durable. They are opened on first use and again when lost, and run single statements in
/// autocommit. It never touches the caller's pool.
///
/// # Cancellation
/// Every method may be dropped at any time. A statement that was under way then has an unknown
/// outcome, its connection is closed, and the next call opens another.
///
/// ```no_run
/// # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// use outbox_sqlx::PgStorage;
///
/// let storage = PgStorage::connect("postgres://localhost/shop").await?;
/// storage.migrate().await?;
/// let outbox = storage.outbox();
/// # let _ = outbox;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PgStorage {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) schema: SchemaName,
    pub(crate) statements: Arc<Statements>,
    pub(crate) options: PgConnectOptions,
    pub(crate) wake_ups: WakeUps,
    /// Claims, settles and everything that only reads.
    pub(crate) control: Arc<Lanes>,
    /// What must survive a crash of the server once it was answered: enqueueing, what an operator
    /// changes, and migrations. The same lanes as `control` where those are strict.
    pub(crate) durable: Arc<Lanes>,
    /// Where claims begin to read.
    pub(crate) watermarks: Watermarks,
    /// Who else works off a backlog.
    pub(crate) neighbours: Neighbours,
    /// Renewals only: the heartbeat runs on a thread of its own, and so does its socket.
    renewal: Lane,
    /// Opens the connection of a vacuum, and keeps none.
    pub(crate) vacuum: Lane,
    /// When a vacuum is worth it.
    pub(crate) house: House,
}

impl fmt::Debug for PgStorage {
    /// The connection options are left out: they hold the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgStorage")
            .field("schema", &self.inner.schema)
            .field("wake_ups", &self.inner.wake_ups)
            .finish_non_exhaustive()
    }
}

/// Whether the server answers a worker's statements before they are safe from a crash of its own.
///
/// It is of claims, renewals and settles alone. What is enqueued or revived through the storage, what
/// is purged, and migrations are strict in any case; what callers do on their own connections is
/// theirs to decide, and is never touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// When the server's, the database's or the role's `synchronous_commit` says so. The default.
    #[default]
    Strict,
    /// At once: `synchronous_commit = off`. A crash of the server, or a failover, may undo the claims,
    /// renewals and settles of the last moments (three times `wal_writer_delay`, 0.6 s unless set
    /// otherwise). No message is lost and every stale write is still refused, but a message whose
    /// settle is undone runs again, although [`Event::Settled`](outbox_core::Event::Settled) was told;
    /// one whose claim is undone is free at once, while its handler may still be running; and
    /// [`Lease::fence`](outbox_core::Lease::fence) may repeat.
    Relaxed,
}

/// Settings of a [`PgStorage`].
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until they connect"]
pub struct PgStorageOptions {
    schema: Option<String>,
    wake_ups: WakeUps,
    concurrent_exchanges: usize,
    durability: Durability,
}

impl Default for PgStorageOptions {
    fn default() -> Self {
        Self {
            schema: None,
            wake_ups: WakeUps::default(),
            concurrent_exchanges: DEFAULT_EXCHANGES,
            durability: Durability::default(),
        }
    }
}

/// One settles while the other claims: more gained nothing on two cores (docs/decisions/0008-several-exchanges.md).
const DEFAULT_EXCHANGES: usize = 2;
/// More connections than that are a mistake, or more than one worker is meant.
const MAX_EXCHANGES: usize = 16;

impl PgStorageOptions {
    /// Sets the database schema; default `outbox`. See [`SchemaName`] for what is allowed.
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = Some(name.into());
        self
    }

    /// Sets when enqueueing through this storage, and through its [`PgStorage::outbox`], wakes
    /// workers; default [`WakeUps::InTransaction`]. With [`WakeUps::Off`] workers do not listen.
    pub fn wake_ups(mut self, wake_ups: WakeUps) -> Self {
        self.wake_ups = wake_ups;
        self
    }

    /// Sets how many exchanges a worker has under way at most, each on a connection of its own; from
    /// 1 to 16, default 2. It takes more than one only where that is worth it, above all with a backlog.
    /// Workers that work off a backlog of the same queues side by side share that number: with one other
    /// each has half of it, and at least one, because claims pass the messages that others' claims have
    /// locked.
    pub fn concurrent_exchanges(mut self, most: usize) -> Self {
        self.concurrent_exchanges = most;
        self
    }

    /// Sets how durable claims, renewals and settles are; default [`Durability::Strict`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// As [`PgStorage::connect`].
    ///
    /// # Errors
    /// As [`PgStorage::connect`], and [`InvalidConfig`](outbox_core::ErrorKind::InvalidConfig) for the
    /// schema's name and for a number of exchanges that is out of range.
    pub async fn connect(self, url: &str) -> Result<PgStorage, Error> {
        self.connect_with(options_of(url)?).await
    }

    /// As [`PgStorage::connect_with`].
    ///
    /// # Errors
    /// As [`PgStorageOptions::connect`].
    pub async fn connect_with(self, options: PgConnectOptions) -> Result<PgStorage, Error> {
        let storage = self.prepare(options)?;
        storage.inner.control.first().open().await?;
        Ok(storage)
    }

    /// Makes the storage without connecting: the first call will.
    ///
    /// # Errors
    /// [`InvalidConfig`](outbox_core::ErrorKind::InvalidConfig) for the schema's name and for a
    /// number of exchanges that is out of range.
    pub fn prepare(self, options: PgConnectOptions) -> Result<PgStorage, Error> {
        let schema = match &self.schema {
            Some(name) => SchemaName::new(name)?,
            None => SchemaName::default(),
        };
        if !(1..=MAX_EXCHANGES).contains(&self.concurrent_exchanges) {
            let problem = format!(
                "a worker has from 1 to {MAX_EXCHANGES} exchanges under way, and not {}",
                self.concurrent_exchanges
            );
            return Err(Error::new(ErrorKind::InvalidConfig, "connect", problem));
        }
        let statements = Arc::new(Statements::new(&schema));
        let options = own_connection(options);
        let lane =
            |options: &PgConnectOptions| Lane::new(options.clone(), statements.recovery.clone());
        let of_control = for_control(options.clone(), self.durability);
        let others = (1..self.concurrent_exchanges).map(|_| lane(&of_control));
        let control = Arc::new(Lanes::new(lane(&of_control), others.collect()));
        let durable = match self.durability {
            Durability::Strict => Arc::clone(&control),
            Durability::Relaxed => Arc::new(Lanes::new(lane(&options), Vec::new())),
        };
        Ok(PgStorage {
            inner: Arc::new(Inner {
                control,
                durable,
                renewal: lane(&of_control),
                vacuum: lane(&for_vacuum(options.clone())),
                house: House::default(),
                schema,
                statements: statements.clone(),
                options: options.clone(),
                wake_ups: self.wake_ups,
                watermarks: Watermarks::default(),
                neighbours: Neighbours::default(),
            }),
        })
    }
}

impl PgStorage {
    /// Connects with the default settings to `postgres://user:password@host/database`.
    ///
    /// # Errors
    /// [`InvalidConfig`](outbox_core::ErrorKind::InvalidConfig) for a URL that cannot be read or is
    /// not one of Postgres, for a user, password or database that the server refuses, for TLS where
    /// the cargo features have none, and outside of the runtime that sqlx was built for; a transient
    /// error while the server cannot be reached, or is a standby. No error repeats the password.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        Self::options().connect(url).await
    }

    /// Connects with the default settings to what `options` say. Statement timeout, lock timeout,
    /// isolation and search path of the connections are set by this crate.
    ///
    /// # Errors
    /// As [`PgStorage::connect`].
    pub async fn connect_with(options: PgConnectOptions) -> Result<Self, Error> {
        Self::options().connect_with(options).await
    }

    /// The default settings, to be changed.
    pub fn options() -> PgStorageOptions {
        PgStorageOptions::default()
    }

    /// A producer for the same schema.
    #[must_use]
    pub fn outbox(&self) -> PgOutbox {
        PgOutbox::of_schema(
            self.inner.schema.clone(),
            self.inner.statements.clone(),
            self.inner.wake_ups,
        )
    }

    /// The database schema.
    #[must_use]
    pub fn schema(&self) -> &SchemaName {
        &self.inner.schema
    }
}

#[async_trait]
impl Storage for PgStorage {
    async fn check(&self) -> Result<(), Error> {
        check::check(&self.inner).await
    }

    async fn enqueue(&self, messages: Vec<NewMessage>) -> Result<Vec<Option<MessageId>>, Error> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let batch = Batch::new(&messages);
        let columns = Columns::new(&batch);
        let statements = &self.inner.statements;
        let channel = self.inner.schema.channel();
        let wake = self.inner.wake_ups != WakeUps::Off;
        let answer = self
            .inner
            .durable
            .fetch("enqueue", Repeat::Never, || {
                columns.query(statements, &channel, wake)
            })
            .await?;
        if messages.iter().any(|new| matches!(new.due, Due::At(_))) {
            // The instant may be long past.
            self.inner.watermarks.doubt();
        }
        let ids = batch.match_written(&answer.rows);
        ids.map_err(|error| storage_error("enqueue", error))
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        claim::claim(&self.inner, request).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Settled, Error> {
        settle::settle(&self.inner, settlements).await
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed, Error> {
        if renewals.is_empty() {
            return Ok(Renewed::default());
        }
        let renewed = renew::renew(&self.inner, &self.inner.renewal, renewals).await?;
        self.inner.house.count(renewed.renewed.len());
        Ok(renewed)
    }

    async fn housekeep(&self) -> Result<Housekeeping, Error> {
        housekeep::housekeep(&self.inner).await
    }

    fn is_untidy(&self) -> bool {
        self.inner.house.is_untidy(Instant::now())
    }

    fn concurrent_exchanges(&self) -> usize {
        self.inner.control.count()
    }

    fn worthwhile_exchanges(&self) -> usize {
        let most = self.inner.control.count();
        self.inner.neighbours.share_of(most, Instant::now())
    }

    fn wake_ups(&self, queues: Vec<Arc<str>>, runtime: Arc<dyn Runtime>) -> BoxStream<'static, ()> {
        listener::wake_ups(&self.inner, queues, runtime)
    }
}
