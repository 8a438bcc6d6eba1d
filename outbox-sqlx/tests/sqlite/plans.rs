//! What SQLite makes of the statements: every one can be prepared, and the hot ones read indexes,
//! at any backlog and whatever the statistics say.

use std::path::PathBuf;

use sqlx::{AssertSqlSafe, Executor, Row, SqlSafeStr, SqliteConnection};

use crate::support::{execute, migrated};

/// The clock, as `prefix.rs` writes it.
const CLOCK: &str = "cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer)";

/// Statements that run again and again while messages are handled.
const HOT: [&str; 11] = [
    "next_due",
    "claim_pending",
    "expired",
    "reclaim",
    "bury",
    "remove",
    "settle_delete",
    "settle_return",
    "renew",
    "enqueue",
    "cancel_by_key",
];

fn queries() -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("queries/sqlite");
    let files = std::fs::read_dir(folder).unwrap();
    let mut queries: Vec<_> = files
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let sql = std::fs::read_to_string(&path).unwrap();
            (
                name,
                sql.replace("{prefix}", "outbox").replace("{now}", CLOCK),
            )
        })
        .collect();
    queries.sort();
    assert!(queries.len() > 30, "the queries were not found");
    queries
}

/// A backlog of 100,000 messages in many states: due and of the future, leased and expired.
async fn fill(connection: &mut SqliteConnection) {
    execute(
        connection,
        "with recursive n (n) as (values (1) union all select n + 1 from n where n < 100000)
         insert into outbox_message (queue, kind, payload, content_type, priority, key,
             next_attempt_at)
         select iif(n % 10 = 0, 'rare', 'busy'), 'k', x'00', 't', n % 7 - 3,
             iif(n % 3 = 0, 'key-' || n, null), iif(n % 2 = 0, 1, 9000000000000) from n;
         update outbox_message
         set acquired_token = randomblob(16), acquired_at = 1, lease_expires_at = id
         where id % 5 = 0",
    )
    .await;
}

/// The steps of a plan, but for those over lists that we send and results that are small.
async fn steps(connection: &mut SqliteConnection, sql: &str) -> Vec<String> {
    let explain = AssertSqlSafe(format!("explain query plan {sql}"));
    let rows = connection.fetch_all(sqlx::raw_sql(explain)).await.unwrap();
    let steps = rows.iter().map(|row| row.get::<String, _>("detail"));
    steps
        .filter(|step| !step.contains("VIRTUAL TABLE") && !step.contains("CONSTANT ROW"))
        .collect()
}

async fn assert_indexed(connection: &mut SqliteConnection, when: &str) {
    for (name, sql) in queries() {
        if !HOT.contains(&name.as_str()) {
            continue;
        }
        let steps = steps(connection, &sql).await;
        for step in &steps {
            // Two tables of this statement's own: the seven priorities, and what was found.
            let own = name == "next_due" && ["SCAN level", "SCAN found"].contains(&step.as_str());
            let scan = step.starts_with("SCAN") && !own;
            assert!(!scan, "{when}, {name}: {steps:#?}");
            assert!(!step.contains("TEMP B-TREE"), "{when}, {name}: {steps:#?}");
            // An index made for one statement and thrown away.
            assert!(!step.contains("AUTOMATIC"), "{when}, {name}: {steps:#?}");
        }
        let searches = steps
            .iter()
            .filter(|step| step.starts_with("SEARCH"))
            .count();
        assert!(
            searches > 0 || name == "enqueue",
            "{when}, {name}: {steps:#?}"
        );
        let by_lease = steps.iter().any(|step| step.contains("message_lease_idx"));
        let may = ["next_due", "expired"].contains(&name.as_str());
        assert!(may || !by_lease, "{when}, {name} walks leases: {steps:#?}");
    }
}

#[tokio::test]
async fn every_statement_can_be_prepared() {
    let (file, _storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    for (name, sql) in queries() {
        let prepared = (&mut ours).prepare(AssertSqlSafe(sql).into_sql_str()).await;
        prepared.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[tokio::test]
async fn hot_statements_read_indexes_at_any_backlog_and_with_any_statistics() {
    let (file, _storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    assert_indexed(&mut ours, "empty").await;
    execute(&mut ours, "analyze").await;
    assert_indexed(&mut ours, "empty and analyzed").await;
    fill(&mut ours).await;
    // The statistics of an empty table are wrong by now, and a new connection reads them anew.
    let mut ours = file.connect().await.unwrap();
    assert_indexed(&mut ours, "full, with statistics of an empty table").await;
    execute(&mut ours, "analyze").await;
    let mut ours = file.connect().await.unwrap();
    assert_indexed(&mut ours, "full and analyzed").await;
    execute(&mut ours, "delete from outbox_message").await;
    let mut ours = file.connect().await.unwrap();
    assert_indexed(&mut ours, "empty, with statistics of a full table").await;
}
