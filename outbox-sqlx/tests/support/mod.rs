//! A database per test, and a few words the tests share.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod proxy;

use std::time::{Duration, Instant};

use outbox_core::{
    BoxFuture, Claim, ClaimRequest, Draft, MessageId, QueueLease, Runtime, Settlement, Source,
    Storage, Verdict,
};
use outbox_sqlx::{PgOutbox, PgStorage};
use outbox_testkit::postgres::{HeldLock, Server, TestDatabase};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

pub(crate) const TTL: Duration = Duration::from_secs(30);

/// How long a state of the server may take to come: a bound for a test that fails, no pause.
const LIMIT: Duration = Duration::from_secs(30);

/// A fresh, empty database, dropped at the end of the test.
pub(crate) struct Database(TestDatabase);

/// Creates a database.
pub(crate) async fn database() -> Database {
    let database = Server::shared().database().await;
    Database(database.expect("a database can be made"))
}

impl Database {
    pub(crate) fn options(&self) -> PgConnectOptions {
        self.0.url().parse().expect("the fixture gives a URL")
    }

    /// A connection as a caller would have.
    pub(crate) async fn connect(&self) -> PgConnection {
        self.options().connect().await.expect("Postgres answers")
    }

    pub(crate) async fn pool(&self, connections: u32) -> sqlx::PgPool {
        sqlx::postgres::PgPoolOptions::new()
            .max_connections(connections)
            .connect_with(self.options())
            .await
            .expect("Postgres answers")
    }

    /// A role of this test, which can log in with the password `role`.
    pub(crate) async fn role(&self, options: &str) -> String {
        let options = format!("login password 'role' {options}");
        self.0.role(&options).await.expect("a role can be made")
    }

    /// The options of a connection as that role.
    pub(crate) fn options_of(&self, role: &str) -> PgConnectOptions {
        self.options().username(role).password("role")
    }

    /// A transaction of somebody else that holds what `sql` locks, until it is released.
    pub(crate) async fn lock(&self, sql: &str) -> HeldLock {
        self.0.lock_rows(sql).await.expect("the locks are free")
    }

    /// Somebody else's lock of one message.
    pub(crate) async fn lock_message(&self, id: MessageId) -> HeldLock {
        let sql = format!("select from outbox.message where id = {id} for update");
        self.lock(&sql).await
    }

    /// A storage without the schema.
    pub(crate) async fn unmigrated(&self) -> PgStorage {
        PgStorage::connect_with(self.options())
            .await
            .expect("Postgres answers")
    }

    /// A storage with the schema.
    pub(crate) async fn storage(&self) -> PgStorage {
        let storage = self.unmigrated().await;
        storage.migrate().await.expect("the schema is made");
        storage
    }
}

/// Tokio with every sleep a hundred times shorter, so that seconds of backoff are milliseconds.
pub(crate) struct FastRuntime;

impl Runtime for FastRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration / 100))
    }

    fn spawn_thread(&self, name: &str, task: BoxFuture<'static, ()>) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(task))?;
        Ok(())
    }
}

/// How many of our own connections the database has.
pub(crate) async fn own_connections(connection: &mut PgConnection) -> i64 {
    number(
        connection,
        "select count(*) from pg_stat_activity
         where datname = current_database() and application_name = 'outbox'",
    )
    .await
}

/// Returns when our connections are exactly `count`: the server needs a moment to end a closed one.
pub(crate) async fn until_own_connections(connection: &mut PgConnection, count: i64) {
    let begun = Instant::now();
    while own_connections(connection).await != count {
        assert!(begun.elapsed() < LIMIT, "there are not {count} connections");
        tokio::task::yield_now().await;
    }
}

/// Ends every connection of ours and returns when they are gone.
pub(crate) async fn terminate_own_connections(connection: &mut PgConnection) {
    execute(
        connection,
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and application_name = 'outbox'",
    )
    .await;
    until_own_connections(connection, 0).await;
}

pub(crate) async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

pub(crate) async fn number(connection: &mut PgConnection, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

pub(crate) async fn texts(connection: &mut PgConnection, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_all(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// How many backends wait for a lock in this database.
pub(crate) async fn waiting(connection: &mut PgConnection) -> i64 {
    number(
        connection,
        "select count(*) from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock'",
    )
    .await
}

/// Returns when exactly `count` backends wait for a lock.
pub(crate) async fn until_waiting(connection: &mut PgConnection, count: i64) {
    let begun = Instant::now();
    while waiting(connection).await != count {
        assert!(begun.elapsed() < LIMIT, "not {count} backends wait");
        tokio::task::yield_now().await;
    }
}

/// Makes each update and delete of a message go on and on until [`let_go`]: without a lock, which
/// our connections wait for only so long.
pub(crate) async fn hold_writes(connection: &mut PgConnection) {
    execute(
        connection,
        "create table public.go ();
         create function public.hold() returns trigger language plpgsql as $$
         begin
             while not exists (select from public.go) loop null; end loop;
             return case when tg_op = 'DELETE' then old else new end;
         end $$;
         create trigger hold before update or delete on outbox.message
             for each row execute function public.hold()",
    )
    .await;
}

/// Ends what [`hold_writes`] began.
pub(crate) async fn let_go(connection: &mut PgConnection) {
    execute(connection, "insert into public.go default values").await;
}

/// Returns when a statement of ours is running.
pub(crate) async fn until_running(connection: &mut PgConnection) {
    let begun = Instant::now();
    let running = "select count(*) from pg_stat_activity where datname = current_database()
        and application_name = 'outbox' and state = 'active'";
    while number(connection, running).await == 0 {
        assert!(begun.elapsed() < LIMIT, "no statement of ours is running");
        tokio::task::yield_now().await;
    }
}

pub(crate) fn lease(queue: &str) -> QueueLease {
    QueueLease::new(queue, TTL)
}

pub(crate) fn pending(queue: &str, limit: usize) -> ClaimRequest {
    ClaimRequest::new(vec![lease(queue)], limit, Source::Pending)
}

pub(crate) fn expired(queue: &str, limit: usize) -> ClaimRequest {
    ClaimRequest::new(vec![lease(queue)], limit, Source::Expired)
}

pub(crate) fn message(queue: &'static str) -> Draft {
    Draft::json(queue, "test", &1)
}

pub(crate) fn ids(claim: &Claim) -> Vec<MessageId> {
    claim.messages.iter().map(|message| message.id).collect()
}

/// A settle of everything a claim holds.
pub(crate) fn settle_all(claim: &Claim, verdict: &Verdict) -> Vec<Settlement> {
    claim
        .messages
        .iter()
        .map(|message| Settlement::new(message.held(), verdict.clone()))
        .collect()
}

/// Enqueues `count` plain messages.
pub(crate) async fn fill(connection: &mut PgConnection, queue: &'static str, count: usize) {
    PgOutbox::new()
        .enqueue_many(connection, (0..count).map(|_| message(queue)))
        .await
        .expect("the messages are written");
}

/// Makes every lease expired.
pub(crate) async fn expire(connection: &mut PgConnection) {
    execute(
        connection,
        "update outbox.message set lease_expires_at = now() - interval '1 second'
         where acquired_token is not null",
    )
    .await;
}

/// Settles, asking again for what is busy, and returns the survivors by id.
pub(crate) async fn settle_to_the_end(
    storage: &PgStorage,
    mut settlements: Vec<Settlement>,
) -> Vec<MessageId> {
    let begun = Instant::now();
    let mut written = Vec::new();
    while !settlements.is_empty() {
        assert!(begun.elapsed() < LIMIT, "{settlements:?} stay busy");
        let settled = storage.settle(&settlements).await;
        let settled = settled.expect("the settle answers");
        written.extend(settled.written);
        settlements.retain(|settlement| settled.busy.contains(&settlement.id));
    }
    written.sort();
    written
}

pub(crate) async fn claim(storage: &PgStorage, request: &ClaimRequest) -> Claim {
    storage.claim(request).await.expect("the claim answers")
}

pub(crate) async fn close(connection: PgConnection) {
    connection.close().await.expect("the connection closes");
}
