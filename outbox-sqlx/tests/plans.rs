//! What the server does with the statements: every one can be prepared, the hot ones are index
//! scans at any backlog and whatever the statistics say, and no plan leases more than the limit.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;

use outbox_core::MessageId;
use sqlx::{AssertSqlSafe, PgConnection};
use support::{
    Database, claim, database, execute, ids, number, pending, texts, until_own_connections,
};

/// The settings of our own connections that choose plans; `connections.rs` checks that they have
/// them.
const OUR_SETTINGS: &str = "set enable_seqscan = off; set enable_bitmapscan = off; set jit = off;
    set plan_cache_mode = force_generic_plan;";

const TOKEN: &str = "'00000000-0000-4000-8000-000000000001'";

fn queries() -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("queries/postgres");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let sql = std::fs::read_to_string(&path).unwrap();
            (name, sql.replace("{schema}", "\"outbox\""))
        })
        .collect()
}

async fn prepare_all(connection: &mut PgConnection) {
    // A vacuum is no query; `housekeeping.rs` runs it.
    for (name, sql) in queries().into_iter().filter(|(name, _)| name != "vacuum") {
        execute(connection, &format!("prepare {name} as {sql}")).await;
    }
}

fn array<T: std::fmt::Display>(values: impl IntoIterator<Item = T>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    format!("'{{{}}}'", values.join(","))
}

fn repeated(value: &str, count: usize) -> String {
    array(std::iter::repeat_n(value, count))
}

/// From the beginning, and from a place among the messages of [`fill`].
const SINCE: [Since; 2] = [("null", 0), ("2020-01-01", 0)];

/// A time, and an id where messages are due at that time.
type Since = (&'static str, u32);

fn claim_pending(queues: &[&str], limit: usize, (since, id): Since) -> String {
    let levels = queues
        .iter()
        .flat_map(|queue| std::iter::repeat_n(queue, 7));
    let priorities = queues.iter().flat_map(|_| -3..=3);
    let ttls = repeated("30s", queues.len() * 7);
    let (due, ids) = (
        repeated(since, queues.len() * 7),
        repeated(&id.to_string(), queues.len() * 7),
    );
    format!(
        "execute claim_pending ({TOKEN}, {}, {}, {ttls}, {limit}, {due}, {ids})",
        array(levels),
        array(priorities)
    )
}

fn claim_clear(queue: &str, limit: usize) -> String {
    format!("execute claim_clear ({TOKEN}, '{queue}', '30s', {limit})")
}

fn claim_expired(limit: usize, (since, _): Since) -> String {
    format!(
        "execute claim_expired ({TOKEN}, '{{rare,busy}}', '{{30s,30s}}', {limit}, 3::smallint,
         '{{5,null}}', '{{{since},{since}}}')"
    )
}

fn next_due((since, id): Since, leases_of: &str) -> String {
    let levels = array(
        ["rare", "busy"]
            .iter()
            .flat_map(|q| std::iter::repeat_n(q, 7)),
    );
    let priorities = array((-3..=3).chain(-3..=3));
    let (due, ids) = (repeated(since, 14), repeated(&id.to_string(), 14));
    format!("execute next_due ({levels}, {priorities}, '{{{leases_of}}}', {due}, {ids})")
}

/// The hot statements with arguments of their usual size.
fn hot() -> Vec<String> {
    let token = TOKEN.trim_matches('\'');
    let ids = |from: usize| array(from..from + 100);
    let tokens = repeated(token, 100);
    let truths = repeated("true", 100);
    let words = repeated("x", 100);
    let delays = repeated("30s", 100);
    let mut hot: Vec<_> = SINCE
        .into_iter()
        .flat_map(|since| {
            [
                claim_pending(&["rare", "busy"], 100, since),
                claim_expired(100, since),
                next_due(since, "rare,busy"),
            ]
        })
        .collect();
    hot.extend([
        claim_clear("busy", 100),
        format!("execute recover ({TOKEN}, '{{rare,busy}}', '{{30s,30s}}', 100)"),
        format!("execute renew ({}, {tokens}, {delays})", ids(1)),
        format!(
            "execute settle ({}, {tokens}, {}, {tokens}, {delays}, {truths}, {truths}, {words},
             {}, {tokens}, {words}, {words})",
            ids(1),
            ids(101),
            ids(201)
        ),
        format!("execute busy ({}, {tokens})", ids(1)),
    ]);
    hot
}

/// Messages of one insert, so of one due time, nearly all in one queue; a tenth of them leased and
/// expired.
async fn fill(connection: &mut PgConnection, backlog: u32) {
    execute(
        connection,
        &format!(
            "alter table outbox.message set (autovacuum_enabled = false);
             insert into outbox.message (queue, kind, payload, content_type)
             select case when n % 1000 = 0 then 'rare' else 'busy' end, 'k', 'x', 't'
             from generate_series(1, {backlog}) as n;
             update outbox.message set acquired_token = gen_random_uuid(), acquired_at = now(),
                 lease_expires_at = now() - interval '1 second'
             where id % 10 = 3"
        ),
    )
    .await;
}

async fn plan(connection: &mut PgConnection, statement: &str) -> String {
    texts(connection, &format!("explain (costs off) {statement}"))
        .await
        .join("\n")
}

/// Whether a plan sorts more than a batch: the search for a lost reply's leases sorts what it found, and
/// a claim of expired leases what it has chosen.
fn sorts(statement: &str, plan: &str) -> bool {
    let mut keys = plan
        .lines()
        .filter_map(|line| line.split_once("Sort Key: "));
    !statement.starts_with("execute recover ") && keys.any(|(_, key)| !key.starts_with("chosen"))
}

async fn assert_index_scans(connection: &mut PgConnection, when: &str) {
    for mode in ["force_custom_plan", "force_generic_plan"] {
        execute(connection, &format!("set plan_cache_mode = {mode}")).await;
        for statement in hot() {
            let plan = plan(connection, &statement).await;
            assert!(!sorts(&statement, &plan), "{when}, {mode}: {plan}");
            for bad in ["Seq Scan", "Bitmap"] {
                assert!(!plan.contains(bad), "{when}, {mode}: {statement}\n{plan}");
            }
        }
    }
}

#[tokio::test]
async fn every_statement_can_be_prepared() {
    let database = database().await;
    database.storage().await;
    let mut ours = database.connect().await;
    prepare_all(&mut ours).await;
    let prepared = number(&mut ours, "select count(*) from pg_prepared_statements").await;
    assert!(prepared >= 20, "{prepared}");
}

#[tokio::test]
async fn hot_statements_are_index_scans_at_any_backlog() {
    let database = database().await;
    database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, 100_000).await;
    execute(&mut ours, OUR_SETTINGS).await;
    prepare_all(&mut ours).await;
    assert_index_scans(&mut ours, "never analyzed").await;
    execute(&mut ours, "vacuum analyze outbox.message").await;
    assert_index_scans(&mut ours, "analyzed").await;
}

#[tokio::test]
async fn a_plan_made_for_an_empty_table_is_a_plan_for_a_full_one() {
    let database = database().await;
    database.storage().await;
    let mut ours = database.connect().await;
    execute(&mut ours, "vacuum analyze outbox.message").await;
    execute(&mut ours, OUR_SETTINGS).await;
    prepare_all(&mut ours).await;
    assert_index_scans(&mut ours, "empty").await;
    // These must find messages by id, not walk every lease.
    for by_id in ["execute renew", "execute settle", "execute busy"] {
        let mut hot = hot().into_iter();
        let statement = hot.find(|hot| hot.starts_with(by_id)).unwrap();
        let plan = plan(&mut ours, &statement).await;
        assert!(!plan.contains("message_lease_idx"), "{plan}");
    }
}

#[tokio::test]
async fn claims_on_default_settings_need_no_sort_once_analyzed() {
    let database = database().await;
    database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, 100_000).await;
    execute(&mut ours, "analyze outbox.message").await;
    prepare_all(&mut ours).await;
    for statement in hot() {
        let plan = plan(&mut ours, &statement).await;
        assert!(!sorts(&statement, &plan), "{plan}");
        assert!(!plan.contains("Seq Scan on message"), "{plan}");
    }
}

/// The pages that a statement touches, in memory or not, and without its effects.
async fn pages(connection: &mut PgConnection, statement: &str) -> u64 {
    let options = "analyze, buffers, costs off, timing off, summary off";
    execute(connection, "begin").await;
    let plan = texts(connection, &format!("explain ({options}) {statement}")).await;
    execute(connection, "rollback").await;
    // The first line of its kind is that of the whole statement.
    let buffers = plan.iter().find(|line| line.contains("Buffers: ")).unwrap();
    let of = |kind: &str| -> u64 {
        let number = buffers.split(kind).nth(1).unwrap_or("0");
        let number = number.split_whitespace().next().unwrap();
        number.parse().unwrap_or_else(|_| panic!("{buffers}"))
    };
    of(" hit=") + of(" read=")
}

#[tokio::test]
async fn a_claim_reads_no_more_of_a_large_backlog_than_of_a_small_one() {
    let database = database().await;
    database.storage().await;
    let mut ours = database.connect().await;
    execute(&mut ours, OUR_SETTINGS).await;
    prepare_all(&mut ours).await;
    let claims = SINCE.map(|since| {
        [
            claim_pending(&["rare", "busy"], 10, since),
            claim_expired(10, since),
        ]
    });
    let claims = claims.concat();
    for later in ["due now", "due later"] {
        let mut costs = Vec::new();
        for backlog in [100, 100_000] {
            execute(&mut ours, "truncate outbox.message").await;
            fill(&mut ours, backlog).await;
            if later == "due later" {
                let sql = "update outbox.message set lease_expires_at = 'infinity'
                    where acquired_token is not null;
                    update outbox.message set next_attempt_at = now() + interval '1 hour'";
                execute(&mut ours, sql).await;
            }
            // Pages that hold nothing any more would count as well.
            execute(&mut ours, "vacuum full analyze outbox.message").await;
            for claim in &claims {
                costs.push(pages(&mut ours, claim).await);
            }
        }
        // An index of the large one may be two levels deeper, for each of 14 queues and priorities
        // and for what a claim writes. Its thousands of other pages are not read.
        for claim in 0..claims.len() {
            assert!(
                costs[claims.len() + claim] <= costs[claim] + 60,
                "{later}: {costs:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_claim_reads_a_few_pages_for_each_message_however_many_it_leases() {
    let database = database().await;
    database.storage().await;
    let mut ours = database.connect().await;
    execute(&mut ours, OUR_SETTINGS).await;
    prepare_all(&mut ours).await;
    fill(&mut ours, 100_000).await;
    execute(&mut ours, "vacuum full analyze outbox.message").await;
    for mode in ["force_custom_plan", "force_generic_plan"] {
        execute(&mut ours, &format!("set plan_cache_mode = {mode}")).await;
        for claim in [
            claim_pending(&["rare", "busy"], 500, SINCE[0]),
            claim_expired(500, SINCE[0]),
            claim_clear("busy", 500),
        ] {
            let pages = pages(&mut ours, &claim).await;
            assert!(pages < 500 * 30, "{mode}: {pages} pages by {claim}");
        }
    }
}

#[tokio::test]
async fn no_forced_plan_leases_more_than_the_limit() {
    let database = database().await;
    database.storage().await;
    let mut ours = database.connect().await;
    execute(
        &mut ours,
        "insert into outbox.message (queue, kind, payload, content_type)
         select case when n % 2 = 0 then 'rare' else 'busy' end, 'k', 'x', 't'
         from generate_series(1, 400) as n;
         update outbox.message set acquired_token = gen_random_uuid(), acquired_at = now(),
             lease_expires_at = now() - interval '1 second'
         where id % 2 = 0 and id > 200 or id % 4 = 1",
    )
    .await;
    prepare_all(&mut ours).await;
    let switches = [
        "hashjoin",
        "mergejoin",
        "nestloop",
        "material",
        "memoize",
        "hashagg",
        "sort",
        "indexscan",
        "indexonlyscan",
        "bitmapscan",
        "tidscan",
        "seqscan",
    ];
    let mut all_off = vec![switches.to_vec()];
    all_off.extend(switches.iter().map(|switch| vec![*switch]));
    let leased = format!("select count(*) from outbox.message where acquired_token = {TOKEN}");
    for off in all_off {
        let since = SINCE[1];
        for claim in [
            claim_pending(&["rare", "busy"], 3, since),
            claim_expired(3, since),
            claim_clear("busy", 3),
        ] {
            execute(&mut ours, "begin").await;
            for switch in &off {
                execute(&mut ours, &format!("set local enable_{switch} = off")).await;
            }
            let rows = sqlx::raw_sql(AssertSqlSafe(claim.clone()))
                .fetch_all(&mut ours)
                .await
                .unwrap();
            assert_eq!(rows.len(), 3, "{claim} without {off:?}");
            assert_eq!(
                number(&mut ours, &leased).await,
                3,
                "{claim} without {off:?}"
            );
            execute(&mut ours, "rollback").await;
        }
    }
}

/// Fills the queue `busy` with 20,200 messages, of which 20,000 are then leased and settled. What they
/// leave behind cannot be removed while the connection that is returned has its snapshot.
async fn fill_behind_a_snapshot(database: &Database, ours: &mut PgConnection) -> PgConnection {
    execute(
        ours,
        "alter table outbox.message set (autovacuum_enabled = false);
         insert into outbox.message (queue, kind, payload, content_type, next_attempt_at)
         select 'busy', 'k', 'x', 't', '2020-01-01' from generate_series(1, 20200)",
    )
    .await;
    let mut holder = database.connect().await;
    let snapshot = "begin isolation level repeatable read; select 1";
    execute(&mut holder, snapshot).await;
    execute(
        ours,
        "update outbox.message set acquired_token = gen_random_uuid(), acquired_at = now(),
             lease_expires_at = '2020-01-01'
         where id <= 20000;
         delete from outbox.message where id <= 20000",
    )
    .await;
    execute(ours, "vacuum outbox.message").await;
    holder
}

#[tokio::test]
async fn a_statement_that_reads_on_passes_what_an_open_snapshot_keeps() {
    let database = database().await;
    database.storage().await;
    let mut ours = database.connect().await;
    let _holder = fill_behind_a_snapshot(&database, &mut ours).await;
    execute(&mut ours, OUR_SETTINGS).await;
    prepare_all(&mut ours).await;
    let statements = |message, lease| {
        [
            claim_pending(&["busy"], 1, message),
            claim_expired(1, lease),
            next_due(message, ""),
        ]
    };
    let beginning = statements(SINCE[0], SINCE[0]);
    let on = statements(("2020-01-01", 20_001), ("2020-01-02", 0));
    for (beginning, on) in beginning.iter().zip(&on) {
        let most = pages(&mut ours, beginning).await;
        assert!(most > 300, "{beginning}: {most} pages");
        let least = pages(&mut ours, on).await;
        assert!(least < 100, "{on}: {least} pages");
    }
}

#[tokio::test]
async fn claims_of_a_backlog_read_on_where_the_last_one_ended() {
    const CLAIMS: i64 = 100;
    let database = database().await;
    let mut ours = database.connect().await;
    let storage = database.storage().await;
    let _holder = fill_behind_a_snapshot(&database, &mut ours).await;
    for claimed in 0..CLAIMS {
        let first = 20_001 + claimed * 2;
        let claim = claim(&storage, &pending("busy", 2)).await;
        assert_eq!(ids(&claim), [MessageId(first), MessageId(first + 1)]);
    }
    // Sessions tell what they have read when they end.
    drop(storage);
    until_own_connections(&mut ours, 0).await;
    let entries = "select idx_tup_read from pg_stat_user_indexes
        where indexrelname = 'message_pending_idx'";
    let mut read = 0;
    while read == 0 {
        read = number(&mut ours, entries).await;
    }
    // The first one reads them all, and so does another once in a second.
    assert!(read > 20_000, "{read} entries");
    assert!(read < CLAIMS * 20_000 / 2, "{read} entries");
}
