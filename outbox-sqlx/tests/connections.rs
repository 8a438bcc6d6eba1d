//! Our own connections: their settings, and what happens when they die.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use outbox_core::{ErrorKind, Renewal, Storage, Verdict};
use outbox_sqlx::{DeadLetterQuery, PgStorage};
use support::{
    claim, database, execute, fill, ids, message, number, own_connections, pending, settle_all,
    terminate_own_connections, texts, until_own_connections, until_waiting,
};

/// Records the settings under which each statement on messages runs.
const RECORD_SETTINGS: &str = "
create table public.seen (name text, value text);
create function public.record_settings() returns trigger language plpgsql as $$
begin
    insert into public.seen
    select name, current_setting(name) from unnest(array[
        'transaction_isolation', 'statement_timeout', 'lock_timeout', 'enable_seqscan',
        'enable_bitmapscan', 'jit', 'search_path', 'idle_in_transaction_session_timeout'
    ]) as name;
    return null;
end $$;
create trigger record_settings after insert or update or delete on outbox.message
    for each statement execute function public.record_settings();
";

#[tokio::test]
async fn settings_of_the_role_do_not_matter() {
    let database = database().await;
    let role = format!("{}_role", database.name());
    let mut ours = database.connect().await;
    execute(
        &mut ours,
        &format!(
            "create role {role} superuser login password 'role';
             alter role {role} set statement_timeout = '50ms';
             alter role {role} set lock_timeout = '10ms';
             alter role {role} set default_transaction_isolation = 'serializable';
             alter role {role} set search_path = 'nowhere';
             alter role {role} set enable_indexscan = 'on'"
        ),
    )
    .await;
    let storage = PgStorage::connect_with(database.options().username(&role).password("role"))
        .await
        .unwrap();
    storage.migrate().await.unwrap();
    execute(&mut ours, RECORD_SETTINGS).await;
    let new = message("q").check(100).unwrap();
    storage.enqueue(vec![new]).await.unwrap();
    let claimed = claim(&storage, &pending("q", 1)).await;
    let renewal = Renewal {
        held: claimed.messages[0].held(),
        lease_ttl: Duration::from_secs(60),
    };
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
        "lock_timeout=5s",
        "search_path=pg_catalog",
        "statement_timeout=30s",
        "transaction_isolation=read committed",
    ];
    assert_eq!(seen, expected);
    drop(storage);
    drop(database);
    let admin = support::database().await;
    let mut admin = admin.connect().await;
    execute(&mut admin, &format!("drop role {role}")).await;
}

#[tokio::test]
async fn a_storage_uses_two_connections_and_names_them() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    // The one that migrated is closed.
    until_own_connections(&mut ours, 1).await;
    fill(&mut ours, "q", 40).await;
    let requests: Vec<_> = (0..4).map(|_| pending("q", 10)).collect();
    let [a, b, c, d] = &requests[..] else {
        panic!("four requests were made")
    };
    let claims = tokio::join!(
        storage.claim(a),
        storage.claim(b),
        storage.claim(c),
        storage.claim(d)
    );
    let renewal = Renewal {
        held: claims.0.unwrap().messages[0].held(),
        lease_ttl: Duration::from_secs(60),
    };
    storage.renew(&[renewal]).await.unwrap();
    assert_eq!(own_connections(&mut ours).await, 2);
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
    let renewal = Renewal {
        held: claimed.messages[0].held(),
        lease_ttl: Duration::from_secs(60),
    };
    storage.renew(&[renewal]).await.unwrap();
    terminate_own_connections(&mut ours).await;
    let renewed = storage.renew(&[renewal]).await.unwrap();
    assert_eq!(renewed.renewed, [claimed.messages[0].id]);
    terminate_own_connections(&mut ours).await;
    let settlements = settle_all(&claimed, &Verdict::Done);
    assert_eq!(storage.settle(&settlements).await.unwrap(), ids(&claimed));
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
    assert_eq!(storage.settle(&settlements).await.unwrap(), []);
}

#[tokio::test]
async fn a_settle_whose_connection_dies_is_sent_again() {
    let database = database().await;
    let storage = database.storage().await;
    let (mut other, mut observer) = (database.connect().await, database.connect().await);
    fill(&mut observer, "q", 1).await;
    let claimed = claim(&storage, &pending("q", 1)).await;
    execute(&mut other, "begin; select from outbox.message for update").await;
    let settlements = settle_all(&claimed, &Verdict::Done);
    let settling = storage.clone();
    let settling = tokio::spawn(async move { settling.settle(&settlements).await });
    until_waiting(&mut observer, 1).await;
    execute(
        &mut observer,
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock'",
    )
    .await;
    execute(&mut other, "rollback").await;
    assert_eq!(settling.await.unwrap().unwrap(), ids(&claimed));
}

#[tokio::test]
async fn a_claim_whose_connection_dies_is_asked_for_and_sent_again() {
    let database = database().await;
    let storage = database.storage().await;
    let (mut other, mut observer) = (database.connect().await, database.connect().await);
    fill(&mut observer, "q", 3).await;
    execute(
        &mut observer,
        "create function public.wait() returns trigger language plpgsql as $$
         begin perform pg_advisory_xact_lock_shared(1); return new; end $$;
         create trigger wait before update on outbox.message
             for each row execute function public.wait()",
    )
    .await;
    execute(&mut other, "select pg_advisory_lock(1)").await;
    let claiming = storage.clone();
    let claiming = tokio::spawn(async move { claiming.claim(&pending("q", 2)).await });
    until_waiting(&mut observer, 1).await;
    execute(
        &mut observer,
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock'",
    )
    .await;
    execute(&mut other, "select pg_advisory_unlock(1)").await;
    let claimed = claiming.await.unwrap().unwrap();
    assert_eq!(claimed.messages.len(), 2);
    let leased = "select count(*) from outbox.message where acquired_token is not null";
    assert_eq!(number(&mut observer, leased).await, 2);
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_a_transient_error() {
    let database = database().await;
    let storage = database.storage().await;
    let (mut other, mut observer) = (database.connect().await, database.connect().await);
    fill(&mut observer, "q", 1).await;
    let claimed = claim(&storage, &pending("q", 1)).await;
    execute(&mut other, "begin; select from outbox.message for update").await;
    let settlements = settle_all(&claimed, &Verdict::Done);
    let settling = storage.clone();
    let again = settlements.clone();
    let settling = tokio::spawn(async move { settling.settle(&again).await });
    until_waiting(&mut observer, 1).await;
    execute(
        &mut observer,
        "select pg_cancel_backend(pid) from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock'",
    )
    .await;
    assert!(settling.await.unwrap().unwrap_err().is_transient());
    execute(&mut other, "rollback").await;
    assert_eq!(storage.settle(&settlements).await.unwrap(), ids(&claimed));
}

#[tokio::test]
async fn an_unreachable_server_is_transient_and_a_wrong_url_is_not() {
    // A port is closed once its listener is dropped.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("postgres://nobody@127.0.0.1:{port}/nothing");
    let error = PgStorage::connect(&url).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let error = PgStorage::connect("not a url").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    let prepared = PgStorage::options().prepare(url.parse().unwrap()).unwrap();
    assert!(prepared.check().await.unwrap_err().is_transient());
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
    let renewals = [Renewal {
        held: claimed.messages[0].held(),
        lease_ttl: Duration::from_secs(60),
    }];
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
        let longer = "select count(*) from outbox.message
            where lease_expires_at > now() + interval '40 seconds'";
        assert_eq!(number(&mut database.connect().await, longer).await, 1);
        let settlements = settle_all(&claimed, &Verdict::Done);
        assert_eq!(storage.settle(&settlements).await.unwrap(), ids(&claimed));
    });
    drop(database);
}
