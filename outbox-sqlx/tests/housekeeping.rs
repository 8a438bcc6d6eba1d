//! The vacuum of a worker: when it takes place, what it removes, and who may not.
#![allow(clippy::unwrap_used)]

mod support;

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use outbox_core::{ClaimRequest, Housekeeping, Storage, Verdict};
use outbox_sqlx::PgStorage;
use sqlx::PgConnection;
use support::{
    Database, claim, database, execute, fill, lease, number, pending, settle_all, texts,
    until_own_connections,
};

/// As many dead rows as a vacuum is worth: each message leaves two.
const MESSAGES: usize = 5_000;

/// A storage that has worked off a queue, on a table that nobody else vacuums.
async fn worked(database: &Database) -> PgStorage {
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    let off = "alter table outbox.message set (autovacuum_enabled = false)";
    execute(&mut ours, off).await;
    fill(&mut ours, "a", MESSAGES).await;
    work(&storage).await;
    storage
}

async fn work(storage: &PgStorage) {
    loop {
        let claimed = claim(storage, &pending("a", 5_000)).await;
        if claimed.messages.is_empty() {
            return;
        }
        let settled = storage.settle(&settle_all(&claimed, &Verdict::Done)).await;
        assert_eq!(settled.unwrap().written.len(), claimed.messages.len());
    }
}

async fn housekeep(storage: &PgStorage) -> Housekeeping {
    storage.housekeep().await.unwrap()
}

/// Whether the index of pending messages is full of what was settled: the pages that a look for the
/// first message reads.
async fn pages(ours: &mut PgConnection) -> u64 {
    let look = "explain (analyze, buffers, costs off, timing off, summary off)
        select id from outbox.message
        where queue = 'a' and priority = 0 and acquired_token is null
        order by next_attempt_at, id limit 1";
    execute(
        ours,
        "set enable_seqscan = off; set enable_bitmapscan = off",
    )
    .await;
    let plan = texts(ours, look).await;
    let of = |kind: &str| -> u64 {
        let line = plan.iter().find(|line| line.contains("Buffers: ")).unwrap();
        let number = line.split(kind).nth(1).unwrap_or("0");
        number.split_whitespace().next().unwrap().parse().unwrap()
    };
    of(" hit=") + of(" read=")
}

async fn vacuums(ours: &mut PgConnection) -> i64 {
    let sql = "select pg_stat_get_vacuum_count('outbox.message'::regclass)";
    number(ours, sql).await
}

#[tokio::test]
async fn housekeeping_removes_what_settled_messages_left() {
    let database = database().await;
    let storage = worked(&database).await;
    let mut ours = database.connect().await;
    let before = pages(&mut ours).await;
    assert!(before > 20, "{before} pages");
    let done = housekeep(&storage).await;
    assert!(
        matches!(done, Housekeeping::Done { left: 0, .. }),
        "{done:?}"
    );
    let after = pages(&mut ours).await;
    assert!(after < 5, "{after} pages");
    assert_eq!(vacuums(&mut ours).await, 1);
    until_own_connections(&mut ours, 1).await;
}

#[tokio::test]
async fn too_few_dead_rows_open_no_connection() {
    let database = database().await;
    let storage = worked(&database).await;
    let mut ours = database.connect().await;
    housekeep(&storage).await;
    fill(&mut ours, "a", MESSAGES - 1).await;
    work(&storage).await;
    let sessions = "select sessions from pg_stat_database where datname = current_database()";
    let before = number(&mut ours, sessions).await;
    assert_eq!(housekeep(&storage).await, Housekeeping::NotNeeded);
    assert_eq!(number(&mut ours, sessions).await, before);
    let quiet = database.unmigrated().await;
    assert_eq!(housekeep(&quiet).await, Housekeeping::NotNeeded);
}

#[tokio::test]
async fn many_dead_rows_are_not_left_for_long() {
    let database = database().await;
    let storage = worked(&database).await;
    let mut ours = database.connect().await;
    assert!(!storage.is_untidy());
    let done = housekeep(&storage).await;
    assert!(matches!(done, Housekeeping::Done { .. }), "{done:?}");
    fill(&mut ours, "a", 100_000).await;
    work(&storage).await;
    assert!(storage.is_untidy());
    // Soon after the one before, and not after four seconds.
    let rest = "select count(pg_sleep(greatest(0, extract(epoch from interval '0.5 seconds'
        + pg_stat_get_last_vacuum_time('outbox.message'::regclass) - clock_timestamp()))))";
    number(&mut ours, rest).await;
    let done = housekeep(&storage).await;
    assert!(matches!(done, Housekeeping::Done { .. }), "{done:?}");
    assert!(!storage.is_untidy());
}

#[tokio::test]
async fn of_two_at_once_one_does_it() {
    let database = database().await;
    let (one, other) = (worked(&database).await, database.unmigrated().await);
    let mut ours = database.connect().await;
    fill(&mut ours, "a", MESSAGES).await;
    work(&other).await;
    let begun = Instant::now();
    let answers = tokio::join!(housekeep(&one), housekeep(&other));
    let did = |answer: &Housekeeping| i64::from(matches!(answer, Housekeeping::Done { .. }));
    let did = did(&answers.0) + did(&answers.1);
    // What was vacuumed four seconds ago may be vacuumed again.
    let most = if begun.elapsed() < Duration::from_secs(4) {
        1
    } else {
        2
    };
    assert!((1..=most).contains(&did), "{answers:?}");
    assert_eq!(vacuums(&mut ours).await, did);
}

#[tokio::test]
async fn what_somebody_else_is_doing_is_left_to_them() {
    let database = database().await;
    let storage = worked(&database).await;
    let mut ours = database.connect().await;
    let right = "pg_advisory_lock(hashtextextended('outbox housekeeping outbox', 0))";
    let held = database.lock(&format!("select {right}")).await;
    assert_eq!(housekeep(&storage).await, Housekeeping::Elsewhere);
    held.release().await.unwrap();

    fill(&mut ours, "a", MESSAGES).await;
    work(&storage).await;
    // As autovacuum locks it.
    let table = "lock table outbox.message in share update exclusive mode";
    let held = database.lock(table).await;
    assert_eq!(housekeep(&storage).await, Housekeeping::Elsewhere);
    assert_eq!(vacuums(&mut ours).await, 0);
    held.release().await.unwrap();
}

#[tokio::test]
async fn a_role_that_may_not_vacuum_is_told_what_to_do() {
    let database = database().await;
    let owner = database.storage().await;
    let mut ours = database.connect().await;
    let role = database.role("").await;
    execute(
        &mut ours,
        &format!(
            "grant usage on schema outbox to {role};
             grant select on outbox.schema_version to {role};
             grant select, update, delete on outbox.message to {role};
             grant select, insert on outbox.dead_letter to {role}"
        ),
    )
    .await;
    fill(&mut ours, "a", MESSAGES).await;
    let storage = PgStorage::connect_with(database.options_of(&role)).await;
    let storage = storage.unwrap();
    work(&storage).await;
    let Housekeeping::NotPermitted { advice } = housekeep(&storage).await else {
        panic!("it may");
    };
    assert!(advice.contains("owns outbox.message"), "{advice}");
    assert_eq!(vacuums(&mut ours).await, 0);
    drop(owner);

    let version = number(
        &mut ours,
        "select current_setting('server_version_num')::bigint",
    )
    .await;
    let allowed = match version {
        170_000.. => format!("grant maintain on outbox.message to {role}"),
        _ => format!("alter table outbox.message owner to {role}"),
    };
    execute(&mut ours, &allowed).await;
    let done = housekeep(&storage).await;
    assert!(matches!(done, Housekeeping::Done { .. }), "{done:?}");
}

#[tokio::test]
async fn what_an_open_snapshot_keeps_is_counted() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "a", MESSAGES).await;
    let mut holder = database.connect().await;
    let snapshot = "begin isolation level repeatable read; select 1";
    execute(&mut holder, snapshot).await;
    work(&storage).await;
    let done = housekeep(&storage).await;
    let kept = u64::try_from(MESSAGES * 2).unwrap();
    assert!(
        matches!(done, Housekeeping::Done { left, .. } if left == kept),
        "{done:?}"
    );
}

#[tokio::test]
async fn a_dropped_call_leaves_no_connection_and_no_lock() {
    let database = database().await;
    let storage = worked(&database).await;
    let mut ours = database.connect().await;
    let call = async || housekeep(&storage).await;
    let left = async |_| {
        until_own_connections(&mut ours, 1).await;
        // By one number, and not by the two of a worker with a backlog.
        let locks = "select count(*) from pg_locks where locktype = 'advisory' and objsubid = 1
            and database = (select oid from pg_database where datname = current_database())";
        assert_eq!(number(&mut ours, locks).await, 0);
    };
    let answer = outbox_testkit::drop_at_every_await(call, left).await;
    // One that was dropped while its answer was on the way has done it.
    let done = matches!(answer, Housekeeping::Done { .. } | Housekeeping::NotNeeded);
    assert!(done, "{answer:?}");
    let claimed = ClaimRequest::new(vec![lease("a")], 1, outbox_core::Source::Pending);
    assert!(claim(&storage, &claimed).await.messages.is_empty());
}

#[tokio::test]
async fn a_vacuum_ends_when_nobody_waits_for_it_any_more() {
    let database = database().await;
    let storage = worked(&database).await;
    let mut ours = database.connect().await;
    // A pause at every page: it would take minutes.
    let slow = "do $$ begin
        execute format('alter database %I set vacuum_cost_delay = 100', current_database());
        execute format('alter database %I set vacuum_cost_limit = 1', current_database());
    end $$";
    execute(&mut ours, slow).await;
    {
        let call = pin!(housekeep(&storage));
        let running = async {
            let sql =
                "select count(*) from pg_stat_progress_vacuum where datname = current_database()";
            while number(&mut ours, sql).await == 0 {
                tokio::task::yield_now().await;
            }
        };
        let running = pin!(running);
        let first = select(call, running).await;
        assert!(matches!(first, Either::Right(_)), "it has ended");
    }
    until_own_connections(&mut ours, 1).await;
    assert_eq!(vacuums(&mut ours).await, 0);
}
