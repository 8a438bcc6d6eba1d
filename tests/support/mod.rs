//! What the end-to-end tests share: a migrated database for each, a worker that runs beside the
//! test, and waiting for states. Worker processes are in [`process`].
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod process;

use std::future::{Future, pending};
use std::time::Duration;

use outbox::postgres::PgStorage;
use outbox::{Claim, ClaimRequest, QueueLease, Report, Source, Storage, Worker, WorkerHandle};
use outbox_testkit::postgres::{FixtureErrorKind, Server, TestDatabase};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::task::JoinHandle;

/// The longest a test waits for anything: far beyond what a loaded machine needs, so that only a
/// state that never comes is a failure.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// One row for each run of a handler, written outside of the outbox: what the tests count.
const EFFECT: &str = "create table effect (
    message_id bigint      not null,
    attempt    smallint    not null,
    worker     text        not null,
    started_at timestamptz not null default clock_timestamp()
)";

/// The sessions of workers that listen for wake-ups.
pub(crate) const LISTENING: &str = "select from pg_stat_activity
    where datname = current_database() and query ilike 'listen%' and state = 'idle'";

/// A database with the outbox's schema and the table `effect`.
pub(crate) async fn database() -> TestDatabase {
    database_on(Server::shared()).await
}

pub(crate) async fn database_on(server: &Server) -> TestDatabase {
    server
        .database_from("outbox", prepare)
        .await
        .expect("a database is made")
}

async fn prepare(url: String) -> Result<(), outbox::BoxError> {
    PgStorage::connect(&url).await?.migrate().await?;
    let mut connection = PgConnection::connect(&url).await?;
    sqlx::raw_sql(EFFECT).execute(&mut connection).await?;
    Ok(())
}

pub(crate) async fn storage(database: &TestDatabase) -> PgStorage {
    PgStorage::connect(&database.url())
        .await
        .expect("Postgres answers")
}

/// Writes a row into `effect`.
pub(crate) async fn effect(
    pool: &PgPool,
    message_id: i64,
    attempt: u16,
    worker: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("insert into effect (message_id, attempt, worker) values ($1, $2, $3)")
        .bind(message_id)
        .bind(i32::from(attempt))
        .bind(worker)
        .execute(pool)
        .await
        .map(drop)
}

pub(crate) async fn text(database: &TestDatabase, sql: &str) -> String {
    let mut connection = database.connect().await.expect("Postgres answers");
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(&mut connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

pub(crate) async fn count(database: &TestDatabase, sql: &str) -> i64 {
    database
        .count(sql)
        .await
        .unwrap_or_else(|error| panic!("{error:?}"))
}

pub(crate) async fn messages(database: &TestDatabase) -> i64 {
    count(database, "select count(*) from outbox.message").await
}

pub(crate) async fn dead_letters(database: &TestDatabase) -> i64 {
    count(database, "select count(*) from outbox.dead_letter").await
}

/// Waits until a condition of SQL holds, for as long as [`LIMIT`].
pub(crate) async fn eventually(database: &TestDatabase, condition: &str) {
    let waiting = async {
        loop {
            match database.wait_until(condition).await {
                Ok(()) => return,
                Err(error) if error.kind() == FixtureErrorKind::Timeout => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    within(condition, waiting).await;
}

/// Awaits what must come within [`LIMIT`].
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(LIMIT, future)
        .await
        .unwrap_or_else(|_| panic!("waited {LIMIT:?} until {what}"))
}

/// A worker that runs beside the test.
pub(crate) struct Running {
    pub(crate) handle: WorkerHandle,
    ended: JoinHandle<Result<Report, outbox::Error>>,
}

impl Running {
    pub(crate) fn start(worker: Worker) -> Self {
        let prepared = worker.prepare().expect("the worker is configured well");
        Self {
            handle: prepared.handle(),
            ended: tokio::spawn(prepared.run_until(pending())),
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_finished()
    }

    pub(crate) async fn stop(self) -> Report {
        self.handle.shutdown();
        within("the worker ends", self.ended)
            .await
            .expect("the worker does not panic")
            .expect("the worker ends well")
    }
}

/// Runs a worker until nothing is left for it.
pub(crate) async fn run_until_idle(worker: Worker) -> Report {
    within("the worker is idle", worker.run_until_idle(Duration::ZERO))
        .await
        .expect("the worker ends well")
}

/// Leases messages without a worker.
pub(crate) async fn claim(
    storage: &PgStorage,
    queue: &str,
    lease_ttl: Duration,
    source: Source,
) -> Claim {
    storage
        .claim(&request(queue, lease_ttl, source))
        .await
        .expect("the claim is answered")
}

pub(crate) fn request(queue: &str, lease_ttl: Duration, source: Source) -> ClaimRequest {
    let queue = QueueLease::new(queue, lease_ttl);
    ClaimRequest::new(vec![queue], 100, source)
}
