//! Row locks that a test holds, to force what is otherwise a race.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection};

use super::error::FixtureError;
use super::wait::wait_for;

/// A transaction that holds the locks of its statements, on a connection of its own.
///
/// Dropping it closes the connection: the server lets go when it notices, usually within
/// milliseconds. [`release`](Self::release) lets go before it returns.
#[derive(Debug)]
pub struct HeldLock {
    connection: PgConnection,
    options: PgConnectOptions,
    pid: i32,
}

impl HeldLock {
    pub(super) async fn hold(options: PgConnectOptions, sql: &str) -> Result<Self, FixtureError> {
        let failed = |error| FixtureError::database("holding a lock", error);
        let mut connection = PgConnection::connect_with(&options).await.map_err(failed)?;
        let pid = sqlx::query_scalar("select pg_backend_pid()")
            .fetch_one(&mut connection)
            .await
            .map_err(failed)?;
        sqlx::raw_sql(AssertSqlSafe(format!("begin; {sql}")))
            .execute(&mut connection)
            .await
            .map_err(failed)?;
        Ok(Self {
            connection,
            options,
            pid,
        })
    }

    /// The process id of the holding session.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits until another session waits for these locks, at most 10 s, and returns its process
    /// id.
    ///
    /// # Errors
    /// `Timeout` if nobody came.
    pub async fn wait_until_blocking(&self) -> Result<i32, FixtureError> {
        let sql = format!(
            "select pid from pg_stat_activity where {} = any(pg_blocking_pids(pid)) limit 1",
            self.pid
        );
        wait_for(&self.options, "a session waits for the held lock", sql).await
    }

    /// Rolls back, and returns when the locks are free.
    ///
    /// # Errors
    /// The session was terminated, in which case the locks are free as well.
    pub async fn release(mut self) -> Result<(), FixtureError> {
        sqlx::raw_sql("rollback")
            .execute(&mut self.connection)
            .await
            .map(drop)
            .map_err(|error| FixtureError::database("releasing a lock", error))
    }
}
