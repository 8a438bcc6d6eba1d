//! Wake-ups: SQLite tells nobody about a commit, but keeps a number that changes with each, and
//! reading it costs next to nothing. A hint that is missed costs a poll interval and nothing else.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use outbox_core::{BoxStream, Error, Runtime};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Row, SqlStr, SqliteConnection};

use super::connect::connect;
use super::error::storage_error;
use super::storage::Inner;
use crate::outage::Outage;

/// One hint for all commits of an interval, whatever they changed: which tables those were the
/// number does not tell.
pub(super) fn wake_ups(inner: &Inner, runtime: Arc<dyn Runtime>) -> BoxStream<'static, ()> {
    let Some(interval) = inner.wake_up_interval else {
        return stream::pending().boxed();
    };
    let watch = Watch {
        // It would fill the log with a line for each look.
        options: inner.options.clone().disable_statement_logging(),
        database_file: inner.statements.database_file.clone(),
        data_version: inner.statements.data_version.clone(),
        interval,
        runtime,
        connection: None,
        seen: None,
        pause: Duration::ZERO,
        outage: Outage::default(),
    };
    stream::unfold(watch, |mut watch| async move {
        watch.change().await;
        Some(((), watch))
    })
    .boxed()
}

struct Watch {
    options: SqliteConnectOptions,
    database_file: SqlStr,
    data_version: SqlStr,
    interval: Duration,
    runtime: Arc<dyn Runtime>,
    /// A connection of its own, which never commits: the number does not change for one's own.
    connection: Option<SqliteConnection>,
    /// Comparable only within one connection.
    seen: Option<i64>,
    /// Before the next look.
    pause: Duration,
    outage: Outage,
}

impl Watch {
    /// Returns when somebody has committed, and once for each new connection: nobody looked before.
    async fn change(&mut self) {
        loop {
            if !self.pause.is_zero() {
                self.runtime.sleep(self.pause).await;
            }
            match self.look().await {
                Ok(version) => {
                    self.outage.over();
                    self.outage.forget_backoff();
                    self.pause = self.interval;
                    if self.seen.replace(version) != Some(version) {
                        return;
                    }
                }
                Err(error) => {
                    self.seen = None;
                    self.outage.begin(&error);
                    self.pause = self.outage.next_backoff();
                }
            }
        }
    }

    /// Reads the number. The connection is closed by whatever ends this early.
    async fn look(&mut self) -> Result<i64, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.options, &self.database_file, "wake_ups").await?,
        };
        let row = sqlx::query(self.data_version.clone()).fetch_one(&mut connection);
        let version = row.await.and_then(|row| row.try_get("data_version"));
        let version = version.map_err(|error| storage_error("wake_ups", error))?;
        self.connection = Some(connection);
        Ok(version)
    }
}
