//! A lane: one connection of our own, used by one call at a time. Not a pool, because a lane must
//! know what it hands out: a connection in an unknown state is closed, never used again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_lock::Mutex;
use futures_util::stream::TryStreamExt;
use outbox_core::Error;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnectOptions, SqliteRow};
use sqlx::{Execute, Executor, Row, SqlStr, SqliteConnection};

use super::connect::connect;
use super::error::{is_busy, storage_error};
use crate::statements::SqliteStatements;

/// How long a call waits for the write lock. Shorter than a worker gives a call, so that it is
/// SQLite that says what was wrong.
const PATIENCE: Duration = Duration::from_secs(5);

/// One connection, opened on first use.
pub(super) struct Lane {
    options: SqliteConnectOptions,
    statements: Arc<SqliteStatements>,
    /// Guards the idle connection, and lets one call run at a time. A call takes the connection out
    /// and puts it back when it is complete: whatever ends it early, a dropped future included,
    /// closes the connection, and SQLite rolls back.
    idle: Mutex<Option<SqliteConnection>>,
}

impl Lane {
    pub(super) fn new(options: SqliteConnectOptions, statements: Arc<SqliteStatements>) -> Self {
        Self {
            options,
            statements,
            idle: Mutex::new(None),
        }
    }

    /// Opens the connection, if none is idle.
    pub(super) async fn open(&self) -> Result<(), Error> {
        let mut idle = self.idle.lock().await;
        if idle.is_none() {
            *idle = Some(self.connect_to_wait_briefly("connect").await?);
        }
        Ok(())
    }

    /// Runs a statement, or a whole transaction of them, and reads all rows. Waits for the write
    /// lock by asking for it again and again: see `wait_briefly.sql`.
    ///
    /// # Cancellation
    /// Dropping the future closes the connection. A transaction takes effect later only if it is
    /// at its commit already, a single statement if it is running or has just asked for the lock.
    pub(super) async fn fetch(
        &self,
        operation: &'static str,
        query: Query<'_, Sqlite, SqliteArguments>,
    ) -> Result<Vec<SqliteRow>, Error> {
        self.read(operation, query, |row| row).await
    }

    /// As [`Lane::fetch`], and reads each row while SQLite goes on with the next and with what
    /// follows. The rows are an answer only once all is done.
    pub(super) async fn read<T>(
        &self,
        operation: &'static str,
        mut query: Query<'_, Sqlite, SqliteArguments>,
        mut read: impl FnMut(SqliteRow) -> T,
    ) -> Result<Vec<T>, Error> {
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode);
        let arguments = arguments.map_err(|error| storage_error(operation, error))?;
        let persistent = Execute::persistent(&query);
        let (sql, arguments) = (query.sql(), arguments.unwrap_or_default());
        let mut idle = self.idle.lock().await;
        let begun = Instant::now();
        loop {
            let mut connection = match idle.take() {
                Some(connection) => connection,
                None => self.connect_to_wait_briefly(operation).await?,
            };
            let query = sqlx::query_with(sql.clone(), arguments.clone()).persistent(persistent);
            let rows = query.fetch(&mut connection).map_ok(&mut read);
            match rows.try_collect().await {
                Ok(answer) => {
                    *idle = Some(connection);
                    return Ok(answer);
                }
                // It did nothing, and its state is known: what writes asks for the lock first, and
                // with a write-ahead log nothing after that is refused as busy.
                Err(error) if is_busy(&error) && begun.elapsed() < PATIENCE => {
                    *idle = Some(connection);
                }
                Err(error) => return Err(storage_error(operation, error)),
            }
        }
    }

    /// Lets SQLite read statements without running them.
    pub(super) async fn prepare(
        &self,
        operation: &'static str,
        statements: &[&SqlStr],
    ) -> Result<(), Error> {
        let mut idle = self.idle.lock().await;
        let mut connection = match idle.take() {
            Some(connection) => connection,
            None => self.connect_to_wait_briefly(operation).await?,
        };
        for statement in statements {
            let prepared = (&mut connection).prepare(SqlStr::clone(statement)).await;
            prepared.map_err(|error| storage_error(operation, error))?;
        }
        *idle = Some(connection);
        Ok(())
    }

    /// Opens a connection that waits briefly, if the database has its write-ahead log. Such a
    /// connection keeps others from having the database to themselves, so that nothing but its
    /// writes can be refused; without it, one that waits briefly would take a schema that it may
    /// not read now for one that is not there.
    async fn connect_to_wait_briefly(
        &self,
        operation: &'static str,
    ) -> Result<SqliteConnection, Error> {
        let mut connection = self.connect(operation).await?;
        let waits = async {
            let mode = sqlx::query(self.statements.journal_mode.clone());
            let mode = mode.fetch_one(&mut connection).await?;
            if mode.try_get::<String, _>("journal_mode")? == "wal" {
                let waits = sqlx::query(self.statements.wait_briefly.clone());
                waits.execute(&mut connection).await?;
            }
            Ok(connection)
        };
        waits.await.map_err(|error| storage_error(operation, error))
    }

    /// Closes the connection, if one is idle.
    pub(super) async fn close(&self) {
        *self.idle.lock().await = None;
    }

    /// Opens a new connection with this lane's settings.
    pub(super) async fn connect(&self, operation: &'static str) -> Result<SqliteConnection, Error> {
        connect(&self.options, &self.statements.database_file, operation).await
    }
}
