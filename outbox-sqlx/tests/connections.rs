//! Our own connections: their settings, and what happens when they die.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use outbox_core::{Renewal, Storage, Verdict};
use outbox_sqlx::{DeadLetterQuery, PgStorage};
use sqlx::{ConnectOptions, PgConnection};
use support::{
    Database, claim, database, execute, fill, hold_writes, ids, let_go, message, number,
    own_connections, pending, settle_all, terminate_own_connections, texts, until_own_connections,
    until_running,
};

/// Records the settings under which each statement on messages runs.
const RECORD_SETTINGS: &str = "
create table public.seen (name text, value text);
create function public.record_settings() returns trigger language plpgsql as $$
begin
    insert into public.seen
    select name, current_setting(name) from unnest(array[
        'transaction_isolation', 'statement_timeout', 'lock_timeout', 'enable_seqscan',
        'enable_bitmapscan', 'jit', 'search_path', 'idle_in_transaction_session_timeout',
        'plan_cache_mode'
    ]) as name;
    return null;
end $$;
create trigger record_settings after insert or update or delete on outbox.message
    for each statement execute function public.record_settings();
";

#[tokio::test]
async fn settings_of_the_role_do_not_matter() {
    let database = database().await;
    let role = database.role("superuser").await;
    let mut ours = database.connect().await;
    execute(
        &mut ours,
        &format!(
            "alter role {role} set statement_timeout = '50ms';
             alter role {role} set lock_timeout = '10ms';
             alter role {role} set default_transaction_isolation = 'serializable';
             alter role {role} set search_path = 'nowhere';
             alter role {role} set enable_indexscan = 'on'"
        ),
    )
    .await;
    let storage = PgStorage::connect_with(database.options_of(&role))
        .await
        .unwrap();
    storage.migrate().await.unwrap();
    execute(&mut ours, RECORD_SETTINGS).await;
    let new = message("q").check(100).unwrap();
    storage.enqueue(vec![new]).await.unwrap();
    let claimed = claim(&storage, &pending("q", 1)).await;
    let renewal = Renewal::new(claimed.messages[0].held(), Duration::from_secs(60));
    storage.renew(&[renewal]).await.unwrap();
    let settlements = settle_all(&claimed, &Verdict::Done);
    storage.settle(&settlements).await.unwrap();
    let seen = texts(
        &mut ours,
        "select distinct name || '=' || value from public.seen order by 1",
    )
    .await;
    let expected = [
        "enable_bitmapscan=off",
        "enable_seqscan=off",
        "idle_in_transaction_session_timeout=30s",
        "jit=off",
        "lock_timeout=1s",
        "plan_cache_mode=force_generic_plan",
        "search_path=pg_catalog",
        "statement_timeout=30s",
        "transaction_isolation=read committed",
    ];
    assert_eq!(seen, expected);
}

/// Four claims at once, and a renewal.
async fn claim_at_once(storage: &PgStorage, queue: &str) {
    let requests: Vec<_> = (0..4).map(|_| pending(queue, 1)).collect();
    let [a, b, c, d] = &requests[..] else {
        panic!("four requests were made")
    };
    let claims = tokio::join!(
        storage.claim(a),
        storage.claim(b),
        storage.claim(c),
        storage.claim(d)
    );
    let renewal = Renewal::new(
        claims.0.unwrap().messages[0].held(),
        Duration::from_secs(60),
    );
    storage.renew(&[renewal]).await.unwrap();
}

#[tokio::test]
async fn a_storage_uses_three_connections_and_names_them() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    // The one that migrated is closed.
    until_own_connections(&mut ours, 1).await;
    fill(&mut ours, "q", 400).await;
    for _ in 0..3 {
        storage.claim(&pending("q", 1)).await.unwrap();
    }
    // Calls one after the other need one.
    assert_eq!(own_connections(&mut ours).await, 1);
    // A call may be answered before it is first looked at whether it is, and meet no other.
    for _ in 0..50 {
        claim_at_once(&storage, "q").await;
        if own_connections(&mut ours).await == 3 {
            break;
        }
    }
    claim_at_once(&storage, "q").await;
    assert_eq!(own_connections(&mut ours).await, 3);
}

#[tokio::test]
async fn a_storage_that_takes_one_exchange_uses_two_connections() {
    let database = database().await;
    drop(database.storage().await);
    let mut ours = database.connect().await;
    until_own_connections(&mut ours, 0).await;
    let options = PgStorage::options().concurrent_exchanges(1);
    let storage = options.connect_with(database.options()).await.unwrap();
    fill(&mut ours, "q", 40).await;
    claim_at_once(&storage, "q").await;
    assert_eq!(own_connections(&mut ours).await, 2);
}

/// What the locks of workers of these queues have in common.
fn name_of_workers(queues: &str) -> String {
    format!("hashtext('outbox workers outbox {queues}') & 2147483647")
}

/// A connection of another worker of these queues, which has a backlog in these seconds from now on.
async fn other_worker(database: &Database, queues: &str, seconds: &str) -> PgConnection {
    let mut connection = database.connect().await;
    let name = name_of_workers(queues);
    let sql = format!(
        "select pg_advisory_lock_shared({name},
            (extract(epoch from clock_timestamp())::bigint & 2147483647)::integer + seconds)
        from generate_series({seconds}) as seconds"
    );
    execute(&mut connection, &sql).await;
    connection
}

#[tokio::test]
async fn workers_that_work_off_a_backlog_share_the_exchanges() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 10).await;
    // Two other workers, in this second and some to come, one that did so before, and one that did before
    // the clock was set back.
    let _others = [
        other_worker(&database, "q", "0, 60").await,
        other_worker(&database, "q", "-1, 60").await,
        other_worker(&database, "q", "-60, -5").await,
        other_worker(&database, "q", "600, 610").await,
    ];

    claim(&storage, &pending("q", 11)).await;
    assert_eq!(storage.worthwhile_exchanges(), 2, "there was no backlog");
    let free = "update outbox.message
        set acquired_token = null, acquired_at = null, lease_expires_at = null";
    execute(&mut ours, free).await;
    claim(&storage, &pending("q", 5)).await;
    assert_eq!(storage.worthwhile_exchanges(), 1);
    let options = PgStorage::options().concurrent_exchanges(9);
    let larger = options.connect_with(database.options()).await.unwrap();
    claim(&larger, &pending("q", 1)).await;
    assert!(matches!(larger.worthwhile_exchanges(), 2 | 3));
    // What they see of each other.
    let sql = format!(
        "select count(distinct pid) from pg_locks where locktype = 'advisory' and objsubid = 2
         and classid = ({})::oid
         and database = (select oid from pg_database where datname = current_database())",
        name_of_workers("q")
    );
    assert_eq!(number(&mut ours, &sql).await, 6);
}

#[tokio::test]
async fn workers_of_other_queues_have_their_exchanges_for_themselves() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 2).await;
    let _others = [
        other_worker(&database, "p", "-1, 60").await,
        other_worker(&database, "p q", "-1, 60").await,
    ];
    claim(&storage, &pending("q", 1)).await;
    assert_eq!(storage.worthwhile_exchanges(), 2);
    // A worker's queues take turns at being first.
    let of_both = database.storage().await;
    let mut request = pending("q", 1);
    request.queues.extend(pending("p", 1).queues);
    claim(&of_both, &request).await;
    assert_eq!(of_both.worthwhile_exchanges(), 1);
}

#[tokio::test]
async fn a_claim_is_answered_where_other_workers_cannot_be_looked_for() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 2).await;
    execute(
        &mut ours,
        "revoke select on pg_catalog.pg_locks from public",
    )
    .await;
    let role = database.role("").await;
    execute(
        &mut ours,
        &format!("grant usage on schema outbox to {role}; grant all on all tables in schema outbox to {role}"),
    )
    .await;
    drop(storage);
    let storage = PgStorage::connect_with(database.options_of(&role))
        .await
        .unwrap();
    for _ in 0..2 {
        assert_eq!(claim(&storage, &pending("q", 1)).await.messages.len(), 1);
    }
    assert_eq!(storage.worthwhile_exchanges(), 2);
}

#[tokio::test]
async fn messages_that_are_claimed_do_not_wait_for_a_connection_to_look_for_other_workers() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    until_own_connections(&mut ours, 1).await;
    fill(&mut ours, "q", 4).await;
    hold_writes(&mut ours).await;
    let start = || {
        let storage = storage.clone();
        tokio::spawn(async move { storage.claim(&pending("q", 2)).await })
    };
    let first = start();
    until_running(&mut ours).await;
    let second = start();
    until_own_connections(&mut ours, 2).await;
    // As a worker does that waited for too long.
    first.abort();
    let_go(&mut ours).await;
    assert_eq!(second.await.unwrap().unwrap().messages.len(), 2);
    until_own_connections(&mut ours, 1).await;
}

#[tokio::test]
async fn every_call_survives_the_end_of_its_idle_connection() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 4).await;
    let new = || message("q").check(100).unwrap();

    terminate_own_connections(&mut ours).await;
    storage.check().await.unwrap();
    terminate_own_connections(&mut ours).await;
    storage.verify_schema().await.unwrap();
    terminate_own_connections(&mut ours).await;
    storage.migrate().await.unwrap();
    terminate_own_connections(&mut ours).await;
    let claimed = claim(&storage, &pending("q", 2)).await;
    assert_eq!(claimed.messages.len(), 2);
    let renewal = Renewal::new(claimed.messages[0].held(), Duration::from_secs(60));
    storage.renew(&[renewal]).await.unwrap();
    terminate_own_connections(&mut ours).await;
    let renewed = storage.renew(&[renewal]).await.unwrap();
    assert_eq!(renewed.renewed, [claimed.messages[0].id]);
    terminate_own_connections(&mut ours).await;
    let settlements = settle_all(&claimed, &Verdict::Done);
    assert_eq!(
        storage.settle(&settlements).await.unwrap().written,
        ids(&claimed)
    );
    terminate_own_connections(&mut ours).await;
    storage.enqueue(vec![new()]).await.unwrap();
    terminate_own_connections(&mut ours).await;
    storage.dead_letters(&DeadLetterQuery::all()).await.unwrap();
    terminate_own_connections(&mut ours).await;
    storage.revive(ids(&claimed)[0]).await.unwrap();
    terminate_own_connections(&mut ours).await;
    storage
        .purge_dead_letters(None, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(
        number(&mut ours, "select count(*) from outbox.message").await,
        3
    );
}

#[tokio::test]
async fn a_settle_that_may_have_happened_says_that_it_does_not_know() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 1).await;
    let claimed = claim(&storage, &pending("q", 1)).await;
    let settlements = settle_all(&claimed, &Verdict::Done);
    storage.settle(&settlements).await.unwrap();
    terminate_own_connections(&mut ours).await;
    let error = storage.settle(&settlements).await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(storage.settle(&settlements).await.unwrap().written, []);
}

#[tokio::test]
async fn a_settle_that_runs_into_a_lock_when_it_is_sent_again_does_not_know_either() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 1).await;
    let claimed = claim(&storage, &pending("q", 1)).await;
    let settlements = settle_all(&claimed, &Verdict::Done);
    terminate_own_connections(&mut ours).await;
    let lock = database.lock_message(claimed.messages[0].id).await;
    // Busy would mean that nothing was written, which the lost reply leaves open.
    let error = storage.settle(&settlements).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let settled = storage.settle(&settlements).await.unwrap();
    assert_eq!(settled.busy, ids(&claimed));
    lock.release().await.unwrap();
    let settled = storage.settle(&settlements).await.unwrap();
    assert_eq!(settled.written, ids(&claimed));
}

#[tokio::test]
async fn a_settle_whose_connection_dies_is_sent_again() {
    let database = database().await;
    let storage = database.storage().await;
    let mut observer = database.connect().await;
    fill(&mut observer, "q", 1).await;
    let claimed = claim(&storage, &pending("q", 1)).await;
    hold_writes(&mut observer).await;
    let settlements = settle_all(&claimed, &Verdict::Done);
    let settling = storage.clone();
    let settling = tokio::spawn(async move { settling.settle(&settlements).await });
    until_running(&mut observer).await;
    end_running(&mut observer, "pg_terminate_backend").await;
    let_go(&mut observer).await;
    assert_eq!(settling.await.unwrap().unwrap().written, ids(&claimed));
}

#[tokio::test]
async fn a_claim_whose_connection_dies_is_asked_for_and_sent_again() {
    let database = database().await;
    let storage = database.storage().await;
    let mut observer = database.connect().await;
    fill(&mut observer, "q", 3).await;
    hold_writes(&mut observer).await;
    let claiming = storage.clone();
    let claiming = tokio::spawn(async move { claiming.claim(&pending("q", 2)).await });
    until_running(&mut observer).await;
    end_running(&mut observer, "pg_terminate_backend").await;
    let_go(&mut observer).await;
    let claimed = claiming.await.unwrap().unwrap();
    assert_eq!(claimed.messages.len(), 2);
    let leased = "select count(*) from outbox.message where acquired_token is not null";
    assert_eq!(number(&mut observer, leased).await, 2);
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_a_transient_error() {
    let database = database().await;
    let storage = database.storage().await;
    let mut observer = database.connect().await;
    fill(&mut observer, "q", 1).await;
    let claimed = claim(&storage, &pending("q", 1)).await;
    hold_writes(&mut observer).await;
    let settlements = settle_all(&claimed, &Verdict::Done);
    let settling = storage.clone();
    let again = settlements.clone();
    let settling = tokio::spawn(async move { settling.settle(&again).await });
    until_running(&mut observer).await;
    // What the time limit of statements does.
    end_running(&mut observer, "pg_cancel_backend").await;
    assert!(settling.await.unwrap().unwrap_err().is_transient());
    let_go(&mut observer).await;
    assert_eq!(
        storage.settle(&settlements).await.unwrap().written,
        ids(&claimed)
    );
}

/// Ends the statements of ours that are running, or their connections.
async fn end_running(connection: &mut PgConnection, how: &str) {
    let running = format!(
        "select {how}(pid) from pg_stat_activity
         where datname = current_database() and application_name = 'outbox' and state = 'active'"
    );
    execute(connection, &running).await;
}

#[test]
fn renewals_go_on_when_the_thread_they_ran_on_is_gone() {
    // Each of these runtimes is a heartbeat thread of its own: its sockets end with it.
    let on_a_thread_of_its_own = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let runtime = on_a_thread_of_its_own();
    let (database, storage, claimed) = runtime.block_on(async {
        let database = database().await;
        let storage = database.storage().await;
        fill(&mut database.connect().await, "q", 1).await;
        let claimed = claim(&storage, &pending("q", 1)).await;
        (database, storage, claimed)
    });
    let renewals = [Renewal::new(
        claimed.messages[0].held(),
        Duration::from_secs(60),
    )];
    for _ in 0..3 {
        let storage = storage.clone();
        std::thread::spawn(move || {
            let renewed = on_a_thread_of_its_own().block_on(storage.renew(&renewals));
            // Busy where the server is still at the statement of the thread that is gone.
            assert_eq!(renewed.unwrap().lost, []);
        })
        .join()
        .unwrap();
    }
    drop(runtime);
    // The control connection's runtime is gone as well.
    on_a_thread_of_its_own().block_on(async {
        storage.check().await.unwrap();
        let mut ours = database.connect().await;
        let longer = "select count(*) from outbox.message
            where lease_expires_at > now() + interval '40 seconds'";
        assert_eq!(number(&mut ours, longer).await, 1);
        // A reply that the old socket had to wait for is lost, and what it said is then unknown.
        match storage.settle(&settle_all(&claimed, &Verdict::Done)).await {
            Ok(settled) => assert_eq!(settled.written, ids(&claimed)),
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
        let left = "select count(*) from outbox.message";
        assert_eq!(number(&mut ours, left).await, 0);
    });
    drop(database);
}

#[tokio::test]
async fn a_database_that_accepts_no_connections_for_a_while_is_an_outage() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 1).await;
    let claimed = claim(&storage, &pending("q", 1)).await;
    let settlements = settle_all(&claimed, &Verdict::Done);
    let name = texts(&mut ours, "select current_database()::text").await;
    // A session cannot shut its own database.
    let elsewhere = database.options().database("postgres");
    let mut elsewhere = elsewhere.connect().await.unwrap();
    let allow = |allowed| {
        let name = &name[0];
        format!("alter database \"{name}\" with allow_connections {allowed}")
    };
    execute(&mut elsewhere, &allow("false")).await;
    terminate_own_connections(&mut ours).await;
    let error = storage.settle(&settlements).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    execute(&mut elsewhere, &allow("true")).await;
    assert_eq!(storage.settle(&settlements).await.unwrap().written.len(), 1);
}

#[tokio::test]
async fn where_the_server_has_no_connection_left_the_first_one_does_the_work() {
    let database = database().await;
    database.storage().await;
    let mut ours = database.connect().await;
    until_own_connections(&mut ours, 0).await;
    let role = database.role("connection limit 1").await;
    execute(
        &mut ours,
        &format!(
            "grant usage on schema outbox to {role};
             grant all on all tables in schema outbox to {role}"
        ),
    )
    .await;
    let storage = PgStorage::connect_with(database.options_of(&role))
        .await
        .unwrap();
    fill(&mut ours, "q", 40).await;
    let requests = [pending("q", 10), pending("q", 10)];
    let claims = tokio::join!(storage.claim(&requests[0]), storage.claim(&requests[1]));
    assert_eq!(claims.0.unwrap().messages.len(), 10);
    assert_eq!(claims.1.unwrap().messages.len(), 10);
    assert_eq!(own_connections(&mut ours).await, 1);
}
