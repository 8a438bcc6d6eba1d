//! Waiting for a state of the database, by asking until it is there.

use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection};

use super::error::{FixtureError, FixtureErrorKind};

const LIMIT: Duration = Duration::from_secs(10);

/// Runs `sql` on a connection of its own every few milliseconds until it returns an integer, at
/// most 10 s. `what` names the awaited state.
pub(super) async fn wait_for(
    options: &PgConnectOptions,
    what: &str,
    sql: String,
) -> Result<i32, FixtureError> {
    let failed = |error| FixtureError::database(format!("waiting until {what}"), error);
    let mut connection = PgConnection::connect_with(options).await.map_err(failed)?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let found: Option<Option<i32>> = sqlx::query_scalar(AssertSqlSafe(sql.clone()))
            .fetch_optional(&mut connection)
            .await
            .map_err(failed)?;
        if let Some(found) = found.flatten() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(FixtureError::new(
                FixtureErrorKind::Timeout,
                format!("waited 10 seconds until {what}"),
                "it did not come to that; look for what should have caused it",
            ));
        }
        // The server's clock, because a timer of ours would have to be one of the caller's runtime.
        sqlx::query("select pg_sleep(0.005)")
            .execute(&mut connection)
            .await
            .map_err(failed)?;
    }
}
