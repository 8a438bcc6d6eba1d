//! A lane: one connection of our own, used by one statement at a time. Not a pool, because a lane
//! must know what it hands out: a connection in an unknown state is closed, never used again.
//! [`Lanes`] are several, for statements that may run at the same time.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use async_lock::{Mutex, MutexGuard};
use outbox_core::{Error, ErrorKind};
use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{Connection, PgConnection, Row, SqlStr};

use crate::connect::connect;
use crate::error::{code_of, is_connection_lost, storage_error};

/// What may happen when a connection that lay idle turns out to be dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// The statement may run twice: repeat it on a new connection.
    Harmless,
    /// It must not: probe the connection first, so that the statement is sent to a live one. Costs
    /// a round trip, for statements that are rare.
    Never,
    /// The caller finds out what happened: report it with [`Failed::unknown`].
    Ask,
}

/// The rows of a statement.
pub(crate) struct Answer {
    pub(crate) rows: Vec<PgRow>,
    /// The statement was sent twice, and may have taken effect the first time.
    pub(crate) repeated: bool,
}

/// Why there are no rows.
#[derive(Debug)]
pub(crate) struct Failed {
    error: Error,
    /// An idle connection was lost under a statement sent with [`Repeat::Ask`].
    pub(crate) unknown: bool,
    /// The statement was sent twice, and may have taken effect the first time.
    pub(crate) repeated: bool,
}

impl Failed {
    fn new(operation: &'static str, error: sqlx::Error) -> Self {
        storage_error(operation, error).into()
    }

    /// The server's error code, if it was the server that answered.
    pub(crate) fn code(&self) -> Option<&str> {
        let source = std::error::Error::source(&self.error)?;
        code_of(source.downcast_ref::<sqlx::Error>()?)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            error,
            unknown: false,
            repeated: false,
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

/// One connection, opened on first use.
pub(crate) struct Lane {
    options: PgConnectOptions,
    standby_check: SqlStr,
    /// Guards the idle connection, and lets one statement run at a time. A statement takes the
    /// connection out and puts it back when it is complete: whatever ends it early, a dropped
    /// future included, closes the connection, and the server rolls back.
    idle: Mutex<Option<PgConnection>>,
}

impl Lane {
    pub(crate) fn new(options: PgConnectOptions, standby_check: SqlStr) -> Self {
        Self {
            options,
            standby_check,
            idle: Mutex::new(None),
        }
    }

    /// Opens the connection, if none is idle.
    pub(crate) async fn open(&self) -> Result<(), Error> {
        let mut idle = self.idle.lock().await;
        if idle.is_none() {
            *idle = Some(self.connect("connect").await?);
        }
        Ok(())
    }

    /// Runs one statement and reads its rows. `query` makes it, and is called again to repeat it.
    ///
    /// # Cancellation
    /// Dropping the future closes the connection; whether the statement took effect is unknown.
    pub(crate) async fn fetch<'q, F>(
        &self,
        operation: &'static str,
        repeat: Repeat,
        query: F,
    ) -> Result<Answer, Failed>
    where
        F: Fn() -> Query<'q, Postgres, PgArguments>,
    {
        let idle = self.idle.lock().await;
        self.run(idle, operation, repeat, query).await
    }

    /// The same on the connection that is idle, if there is one: it neither waits nor connects for a
    /// statement that its caller can do without.
    pub(crate) async fn fetch_if_idle<'q, F>(
        &self,
        operation: &'static str,
        query: F,
    ) -> Option<Result<Answer, Failed>>
    where
        F: Fn() -> Query<'q, Postgres, PgArguments>,
    {
        let idle = self.idle.try_lock().filter(|idle| idle.is_some())?;
        Some(self.run(idle, operation, Repeat::Ask, query).await)
    }

    async fn run<'q, F>(
        &self,
        mut idle: MutexGuard<'_, Option<PgConnection>>,
        operation: &'static str,
        repeat: Repeat,
        query: F,
    ) -> Result<Answer, Failed>
    where
        F: Fn() -> Query<'q, Postgres, PgArguments>,
    {
        let mut repeated = false;
        if let Some(mut connection) = idle.take() {
            let sent = match repeat {
                Repeat::Harmless | Repeat::Ask => true,
                Repeat::Never => connection.ping().await.is_ok(),
            };
            if sent {
                match query().fetch_all(&mut connection).await {
                    Ok(rows) => {
                        *idle = Some(connection);
                        return Ok(Answer {
                            rows,
                            repeated: false,
                        });
                    }
                    Err(error) if repeat == Repeat::Harmless && is_connection_lost(&error) => {
                        tracing::debug!(operation, %error, "an idle connection was lost");
                        repeated = true;
                    }
                    Err(error) => {
                        let unknown = repeat == Repeat::Ask && is_connection_lost(&error);
                        let failed = Failed::new(operation, error);
                        return Err(Failed { unknown, ..failed });
                    }
                }
            }
        }
        let mut connection = self.connect(operation).await?;
        let rows = query().fetch_all(&mut connection).await;
        let rows = rows.map_err(|error| {
            let failed = Failed::new(operation, error);
            Failed { repeated, ..failed }
        })?;
        *idle = Some(connection);
        Ok(Answer { rows, repeated })
    }

    /// Opens a new connection with this lane's settings and checks that the server accepts writes.
    pub(crate) async fn connect(&self, operation: &'static str) -> Result<PgConnection, Error> {
        let mut connection = connect(&self.options, operation).await?;
        let standby = sqlx::query(self.standby_check.clone())
            .persistent(false)
            .fetch_one(&mut connection)
            .await
            .and_then(|row| row.try_get::<bool, _>("standby"))
            .map_err(|error| storage_error(operation, error))?;
        if standby {
            // Transient: the address will lead to the new primary once the failover is done.
            return Err(Error::new(
                ErrorKind::Unavailable,
                operation,
                "the server is a standby and accepts no writes",
            )
            .with_advice("connect to the primary; during a failover the next call will find it"));
        }
        Ok(connection)
    }
}

/// How long no other connection is asked for after the server had none for us.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// Some lanes. A statement takes the first that is free, so that those behind it connect only when
/// they are needed, and waits for the first one where none is, or none can be opened.
pub(crate) struct Lanes {
    first: Lane,
    others: Vec<Lane>,
    /// Guards when a connection beside the first was refused last; never held over an await.
    refused: std::sync::Mutex<Option<Instant>>,
}

impl Lanes {
    pub(crate) fn new(first: Lane, others: Vec<Lane>) -> Self {
        Self {
            first,
            others,
            refused: std::sync::Mutex::new(None),
        }
    }

    /// How many statements can run at the same time.
    pub(crate) fn count(&self) -> usize {
        1 + self.others.len()
    }

    /// The one that is always there.
    pub(crate) fn first(&self) -> &Lane {
        &self.first
    }

    /// See [`Lane::fetch`].
    pub(crate) async fn fetch<'q, F>(
        &self,
        operation: &'static str,
        repeat: Repeat,
        query: F,
    ) -> Result<Answer, Failed>
    where
        F: Fn() -> Query<'q, Postgres, PgArguments>,
    {
        if let Some(idle) = self.first.idle.try_lock() {
            return self.first.run(idle, operation, repeat, query).await;
        }
        for lane in &self.others {
            let Some(mut idle) = lane.idle.try_lock() else {
                continue;
            };
            if idle.is_none() {
                *idle = self.connect_beside(lane, operation).await;
            }
            if idle.is_some() {
                return lane.run(idle, operation, repeat, query).await;
            }
        }
        self.first.fetch(operation, repeat, query).await
    }

    /// A connection that the work can do without: a server that has none left is no failure.
    async fn connect_beside(&self, lane: &Lane, operation: &'static str) -> Option<PgConnection> {
        let refused = || self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused().is_some_and(|last| last.elapsed() < REFUSED_PAUSE) {
            return None;
        }
        match lane.connect(operation).await {
            Ok(connection) => Some(connection),
            Err(error) => {
                *refused() = Some(Instant::now());
                tracing::debug!(operation, %error, "no further connection can be opened");
                None
            }
        }
    }
}
