//! Idle: what a worker with nothing to do asks of the server, and with one handler that runs for
//! long.

use std::time::{Duration, Instant};

use outbox::postgres::{PgOutbox, PgStorage};
use outbox::{BoxFuture, Context, Definition, Handler, Outcome, Requirements};
use outbox_testkit::postgres::TestDatabase;
use serde_json::json;

use crate::Error;
use crate::arguments::Arguments;
use crate::measure::Cost;
use crate::report::Report;
use crate::server::{Bench, LEASE_TTL, connect, draft, wait_until_left};
use crate::workload::Noop;

/// The poll interval of 1 s, varied by 20 %: a default worker looks for pending messages this often
/// at most.
const SHORTEST_POLL_SECONDS: f64 = 0.8;
/// Expired leases are looked for four times in a lease time.
const RECLAIMS_PER_LEASE: f64 = 4.0;
/// A look that finds nothing is followed by the question how long to sleep.
const STATEMENTS_OF_A_LOOK: f64 = 2.0;
/// The listening connection is asked whether it still listens every 10 s.
const PROBES_PER_SECOND: f64 = 0.1;
/// The heartbeat renews all leases three times in a lease time.
const RENEWALS_PER_LEASE: f64 = 3.0;

pub(crate) async fn run(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
) -> Result<(), Error> {
    let seconds = Duration::from_secs(arguments.seconds);
    report.note(&format!(
        "idle: a default worker with nothing to do, looked at for {} s after it settled down",
        arguments.seconds
    ));
    let lease = LEASE_TTL.as_secs_f64();
    let looks = 1.0 / SHORTEST_POLL_SECONDS + RECLAIMS_PER_LEASE / lease;
    let polling = looks * STATEMENTS_OF_A_LOOK + PROBES_PER_SECOND;
    // The first renewal opens its connection and asks whether the server accepts writes.
    let heartbeat = RENEWALS_PER_LEASE / lease + 1.0 / seconds.as_secs_f64();
    watch::<Noop>(bench, seconds, "idle", 0, polling, report).await?;
    let name = "idle with a long handler";
    watch::<Forever>(bench, seconds, name, 1, polling + heartbeat, report).await
}

async fn watch<H: Handler>(
    bench: &Bench,
    time: Duration,
    name: &str,
    messages: usize,
    bound: f64,
    report: &Report,
) -> Result<(), Error> {
    let database = bench.database().await?;
    enqueue(&database, messages).await?;
    let storage = PgStorage::connect(&database.url()).await?;
    let worker = outbox::tokio::worker(storage)
        .register::<H>()
        .grace(Duration::ZERO)
        .prepare()?;
    let handle = worker.handle();
    let running = tokio::spawn(worker.run_until(std::future::pending()));
    let looked = async {
        let held = format!(
            "(select count(*) from outbox.message where acquired_token is not null) = {messages}"
        );
        database.wait_until(&held).await?;
        // Connections and first looks are over after a poll or two.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let commits = commits(&database).await?;
        let count = bench.meter.start(&database).await?;
        let started = Instant::now();
        tokio::time::sleep(time).await;
        let seconds = started.elapsed().as_secs_f64();
        let cost = count.so_far().await?;
        let sessions = database
            .count("select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
            .await?;
        Ok::<_, Error>((cost, seconds, commits, sessions))
    }
    .await;
    handle.shutdown();
    running.await??;
    let (cost, seconds, before, sessions) = looked?;
    wait_until_left(&database).await?;
    let statements = match cost.calls() {
        Some(calls) => calls,
        // Each statement of a worker is a transaction. What the measuring itself commits is few.
        None => (commits(&database).await? - before) as f64,
    };
    tell(
        report,
        name,
        &cost,
        statements / seconds,
        seconds,
        sessions,
        bound,
    );
    Ok(())
}

fn tell(
    report: &Report,
    name: &str,
    cost: &Cost,
    ours: f64,
    seconds: f64,
    sessions: i64,
    bound: f64,
) {
    let verdict = if ours <= bound { "within" } else { "ABOVE" };
    report.note(&format!(
        "  {name}: {ours:.2} statements/s, {verdict} the bound of {bound:.2}; {sessions} connections"
    ));
    for statement in cost.statements.iter().flatten() {
        report.note(&format!(
            "    {:>6.2}/s {:>7.3} ms each  {}",
            statement.calls / seconds,
            statement.milliseconds / statement.calls.max(1.0),
            statement.label
        ));
    }
    report.result(json!({
        "workload": name,
        "unit": "statements/s",
        "ours": ours,
        "bare": bound,
        "ratio": ours / bound,
        "connections": sessions,
    }));
}

async fn enqueue(database: &TestDatabase, messages: usize) -> Result<(), Error> {
    let mut connection = connect(database).await?;
    let drafts = (0..messages).map(|_| draft());
    PgOutbox::new()
        .enqueue_many(&mut connection, drafts)
        .await?;
    Ok(())
}

/// Transactions of a database since it was made.
async fn commits(database: &TestDatabase) -> Result<i64, Error> {
    let sql = "select xact_commit from pg_stat_database where datname = current_database()";
    Ok(database.count(sql).await?)
}

/// A handler that runs until the worker ends.
struct Forever;

impl Handler for Forever {
    fn definition() -> Definition {
        Noop::definition()
    }

    fn requires(_: &mut Requirements) {}

    fn call(context: Context) -> BoxFuture<'static, Outcome> {
        Box::pin(async move {
            let _held = context;
            std::future::pending().await
        })
    }
}
