//! Lost connections and a restarted Postgres: nothing is lost, the worker goes on by itself, and
//! is woken again afterwards. So also where a crash undoes what the worker had written.

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox::postgres::{Durability, PgStorage};
use outbox::{Attempt, Data, Health, MessageId, Report, RetryPolicy, job};
use outbox_testkit::postgres::{Server, ServerOptions, Shutdown, TestDatabase};
use sqlx::PgPool;
use support::{
    LISTENING, Running, count, database, database_on, dead_letters, effect, eventually, messages,
    storage, text,
};

/// Far longer than any test: what starts sooner was woken.
const POLL: Duration = Duration::from_secs(600);

/// Takes a while, so that every outage meets some of these.
#[job(
    queue = "work",
    lease_ttl = "2s",
    max_attempts = 1000,
    retry = RetryPolicy::exponential(Duration::from_millis(20), Duration::from_millis(200))
)]
async fn work(_: (), id: MessageId, attempt: Attempt, Data(pool): Data<PgPool>) -> outbox::Result {
    sqlx::query("select pg_sleep(0.01)").execute(&*pool).await?;
    effect(&pool, id.0, attempt.number, "work").await?;
    Ok(())
}

async fn start(database: &TestDatabase) -> Running {
    let pool = database.pool(8).await.expect("Postgres answers");
    let worker = outbox::tokio::worker(storage(database).await)
        .data(pool)
        .concurrency(8)
        .poll_interval(POLL)
        .register::<work>();
    Running::start(worker)
}

async fn enqueue(database: &TestDatabase, count: usize) {
    let mut connection = database.connect().await.expect("Postgres answers");
    let outbox = outbox::postgres::PgOutbox::new();
    let drafts = (0..count).map(|_| work::job(()));
    let written = outbox.enqueue_many(&mut connection, drafts).await;
    assert_eq!(written.expect("they are written").len(), count);
}

/// At least this many messages have had their effect.
async fn until_handled(database: &TestDatabase, count: usize) {
    let handled = format!("(select count(distinct message_id) from effect) >= {count}");
    eventually(database, &handled).await;
}

/// The worker that was there all along listens again, and starts a new message at once.
async fn is_woken(database: &TestDatabase, handled: usize) {
    eventually(database, &format!("exists ({LISTENING})")).await;
    eventually(database, "not exists (select from outbox.message)").await;
    let before = text(database, "select clock_timestamp()::text").await;
    enqueue(database, 1).await;
    until_handled(database, handled + 1).await;
    let late = format!(
        "select (extract(epoch from max(started_at) - '{before}') * 1000)::bigint from effect"
    );
    let late = count(database, &late).await;
    assert!(late < 10_000, "it started after {late} ms");
}

/// What is enqueued while only the listening connection is gone is found when it is back.
async fn is_told_what_it_missed(database: &TestDatabase, handled: usize) {
    let listening = "select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and query ilike 'listen%'";
    assert_eq!(database.execute(listening).await.expect("it ends"), 1);
    enqueue(database, 1).await;
    until_handled(database, handled + 1).await;
}

async fn check(database: &TestDatabase, worker: Running, handled: i64) -> Report {
    eventually(database, "not exists (select from outbox.message)").await;
    assert!(!worker.has_ended(), "the worker was never restarted");
    assert_eq!(worker.handle.health(), Health::Healthy);
    let report = worker.stop().await;
    let effects = "select count(distinct message_id) from effect";
    assert_eq!(count(database, effects).await, handled);
    assert_eq!(
        (messages(database).await, dead_letters(database).await),
        (0, 0)
    );
    report
}

#[tokio::test]
async fn a_worker_outlives_the_end_of_all_its_connections_again_and_again() {
    let database = database().await;
    let worker = start(&database).await;
    // The listening connection comes back later each time; two outages are enough for it.
    let others = "select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()
        and query not ilike 'listen%'";
    let mut ended = 0;
    for round in 1..=12 {
        enqueue(&database, 50).await;
        until_handled(&database, 50 * (round - 1) + 10).await;
        ended += match round {
            4 | 8 => database.terminate_all().await,
            _ => database.execute(others).await,
        }
        .expect("the sessions end");
    }
    assert!(ended >= 24, "only {ended} sessions were there to be ended");
    until_handled(&database, 600).await;
    is_woken(&database, 600).await;
    is_told_what_it_missed(&database, 601).await;
    check(&database, worker, 602).await;
}

#[tokio::test]
async fn a_worker_outlives_a_restart_of_postgres_and_a_crash_of_it() {
    let server =
        Server::start_throwaway(&ServerOptions::new()).unwrap_or_else(|error| panic!("{error:?}"));
    let database = database_on(&server).await;
    let worker = start(&database).await;
    let mut handled = 0;
    for how in [Shutdown::Fast, Shutdown::Immediate] {
        enqueue(&database, 300).await;
        until_handled(&database, handled + 30).await;
        let restarting = server.clone();
        let restarted = tokio::task::spawn_blocking(move || restarting.restart(how));
        restarted
            .await
            .expect("it does not panic")
            .expect("Postgres is back");
        handled += 300;
        assert!(
            messages(&database).await > 0,
            "{how:?} met messages under way"
        );
        until_handled(&database, handled).await;
    }
    is_woken(&database, handled).await;
    let report = check(&database, worker, 601).await;
    assert!(report.storage_errors > 0, "the outages were noticed");
}

/// How often each message ran. In memory: an effect in the database would take the claim before it
/// to the disk.
type Runs = Arc<Mutex<BTreeMap<i64, u32>>>;

#[job(queue = "quiet", lease_ttl = "2s")]
async fn quiet(_: (), id: MessageId, Data(runs): Data<Runs>) -> outbox::Result {
    let mut runs = runs.lock().expect("no handler panics");
    *runs.entry(id.0).or_default() += 1;
    Ok(())
}

#[tokio::test]
async fn a_worker_finds_what_a_crash_of_postgres_has_undone() {
    // The log of a commit that does not wait for it is written ten seconds later.
    let options = ServerOptions::new()
        .set("wal_writer_delay", "10s")
        .set("autovacuum", "off");
    let server = Server::start_throwaway(&options).unwrap_or_else(|error| panic!("{error:?}"));
    let database = database_on(&server).await;
    let storage = PgStorage::options().durability(Durability::Relaxed);
    let storage = storage.connect(&database.url()).await;
    let runs = Runs::default();
    let worker = outbox::tokio::worker(storage.expect("Postgres answers"))
        .data(Arc::clone(&runs))
        .poll_interval(POLL)
        .register::<quiet>();
    let worker = Running::start(worker);
    let outbox = outbox::postgres::PgOutbox::new();
    let idle = "not exists (select from outbox.message)";
    for _ in 0..3 {
        let mut connection = database.connect().await.expect("Postgres answers");
        let drafts = (0..100).map(|_| quiet::job(()));
        let written = outbox.enqueue_many(&mut connection, drafts).await;
        assert_eq!(written.expect("they are written").len(), 100);
        // All are settled, and almost always all are back after the crash.
        eventually(&database, idle).await;
        let crashing = server.clone();
        let crashed = tokio::task::spawn_blocking(move || crashing.restart(Shutdown::Immediate));
        let crashed = crashed.await.expect("it does not panic");
        crashed.expect("Postgres is back");
        eventually(&database, idle).await;
    }
    assert!(!worker.has_ended(), "the worker was never restarted");
    worker.stop().await;
    let ran = runs.lock().expect("no handler panics").len();
    assert_eq!(ran, 300);
    assert_eq!(
        (messages(&database).await, dead_letters(&database).await),
        (0, 0)
    );
}
