//! What SQLite makes of the statements: every one can be prepared, and the hot ones read indexes,
//! at any backlog and whatever the statistics say.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, Row, SqlSafeStr, SqliteConnection};

use crate::support::{execute, migrated};

/// The clock, as `prefix.rs` writes it.
const CLOCK: &str = "cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer)";

/// Statements that run again and again while messages are handled.
const HOT: [&str; 14] = [
    "next_due",
    "pending",
    "claim_pending",
    "large",
    "expired",
    "reclaim",
    "bury",
    "remove",
    "settle_held",
    "settle_delete",
    "settle_return",
    "renew",
    "enqueue",
    "cancel_by_key",
];

/// The insert of many messages as it is sent for one of which all is its own.
fn complete(sql: &str) -> String {
    let columns: Vec<String> = (1..=12).map(|column| format!("column{column}")).collect();
    let message = format!("({})", vec!["?"; columns.len()].join(", "));
    sql.replace("{fields}", &columns.join(", "))
        .replace("{messages}", &message)
        .replace("{refused}", "rollback")
        .replace("{returned}", "id, queue, key")
}

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
                complete(&sql.replace("{prefix}", "outbox").replace("{now}", CLOCK)),
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
            // Small tables of the statement's own: the seven priorities and what was found; the
            // queues, each with its lease time; the tokens, each with its ids; and what passes
            // from one loop to the next without being kept.
            let own: &[&str] = match &*name {
                "next_due" => &["SCAN level", "SCAN found"],
                "pending" => &["SCAN claimable"],
                "claim_pending" | "settle_held" | "settle_delete" => &["SCAN lease"],
                _ => &[],
            };
            let own = own.contains(&step.as_str());
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

/// What only the first finds would be handled without a lease, and what only the second does leased
/// for nobody.
#[tokio::test]
async fn both_statements_of_a_claim_find_the_same_messages() {
    let (file, _storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    execute(
        &mut ours,
        "with recursive n (n) as (values (1) union all select n + 1 from n where n < 600)
         insert into outbox_message (queue, kind, payload, content_type, priority, attempts,
             deliveries, next_attempt_at)
         select iif(n % 4 = 0, 'a', 'b'), 'k', x'00', 't', n % 3, n % 5, n % 7, n / 3 * 10 from n;
         update outbox_message
         set acquired_token = randomblob(16), acquired_at = 1, lease_expires_at = 2
         where id % 11 = 0",
    )
    .await;
    let queries: HashMap<String, String> = queries().into_iter().collect();
    let levels = r#"[["b", 0, 1000], ["a", 1, 5000], ["a", 0, 5000]]"#;
    let token = b"sixteen bytes ok".as_slice();
    // Of the first level; of all that were due long ago; of all.
    for (limit, due_by, expected) in [(7, 2_000, 7), (1_000, 1_000, 114), (1_000, 9_000, 228)] {
        let text = |name: &str| AssertSqlSafe(queries[name].clone());
        let bound = |name: &str| {
            let query = sqlx::query(text(name)).bind(token).bind(levels);
            query.bind(limit).bind(due_by)
        };
        let mut tx = ours.begin_with("begin immediate").await.unwrap();
        let read = bound("pending").fetch_one(&mut *tx).await.unwrap();
        bound("claim_pending").execute(&mut *tx).await.unwrap();
        let leased =
            "select id, attempts, deliveries from outbox_message where acquired_token = $1";
        let leased = sqlx::query(leased).bind(token).fetch_all(&mut *tx).await;
        tx.rollback().await.unwrap();
        let messages = read.get::<&str, _>("messages").lines();
        let messages: Vec<Value> = messages
            .map(|message| serde_json::from_str(message).unwrap())
            .collect();
        let places = [0, 10, 12];
        let read = messages
            .iter()
            .map(|message| places.map(|place| message[place].as_i64().unwrap()));
        let mut read: Vec<[i64; 3]> = read.collect();
        read.sort_unstable();
        let names = ["id", "attempts", "deliveries"];
        let leased = leased.unwrap();
        let leased = leased.iter().map(|row| names.map(|name| row.get(name)));
        let mut leased: Vec<[i64; 3]> = leased.collect();
        leased.sort_unstable();
        assert_eq!(read.len(), expected, "{due_by}");
        assert_eq!(read, leased, "{due_by}");
    }
}

/// Its lease may end before it is read: then it is for whoever takes it over.
#[tokio::test]
async fn a_large_message_is_read_by_its_holder_only() {
    let (file, _storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    execute(
        &mut ours,
        "insert into outbox_message (queue, kind, payload, content_type, acquired_token,
             acquired_at, lease_expires_at)
         values ('q', 'k', zeroblob(2000), 't', cast('sixteen bytes ok' as blob), 1, 2)",
    )
    .await;
    let queries: HashMap<String, String> = queries().into_iter().collect();
    for (token, expected) in [("sixteen bytes ok", 1), ("sixteen bytes no", 0)] {
        let read = sqlx::query(AssertSqlSafe(queries["large"].clone()));
        let read = read.bind(token.as_bytes()).bind("[1]");
        assert_eq!(read.fetch_all(&mut ours).await.unwrap().len(), expected);
    }
}
