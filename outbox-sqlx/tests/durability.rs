//! What a crash of the server may undo: with relaxed durability the last claims, renewals and
//! settles, and nothing else.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use outbox_core::{DeadReason, MessageId, Renewal, Storage, Verdict};
use outbox_sqlx::{Durability, PgStorage, PgStorageOptions, Revived};
use outbox_testkit::postgres::{Server, ServerOptions, Shutdown};
use sqlx::{Connection, PgConnection};
use support::{
    Database, claim, database, execute, expired, ids, message, number, own_connections, pending,
    settle_all, texts,
};

/// Records the durability of every statement that writes messages, dead letters or the schema.
const RECORD: &str = "
create table public.seen (value text);
create function public.record() returns trigger language plpgsql as $$
begin
    insert into public.seen values (current_setting('synchronous_commit'));
    return null;
end $$;
create trigger record after insert or update or delete on outbox.message
    for each statement execute function public.record();
create trigger record after insert or update or delete on outbox.dead_letter
    for each statement execute function public.record();
";

/// The settings of what was written since the last call.
async fn seen(connection: &mut PgConnection) -> Vec<String> {
    let sql = "with gone as (delete from public.seen returning value)
        select distinct value from gone order by value";
    texts(connection, sql).await
}

fn relaxed() -> PgStorageOptions {
    PgStorage::options().durability(Durability::Relaxed)
}

/// Does everything that writes, and says with which setting: enqueue, claim, reclaim, renew, settle,
/// revive, purge.
async fn write_everything(database: &Database, options: PgStorageOptions) -> [Vec<String>; 7] {
    let mut ours = database.connect().await;
    let role = database.role("superuser").await;
    // What a server says that waits for a standby, which this one does not have.
    let waits = format!("alter role {role} set synchronous_commit = 'remote_write'");
    execute(&mut ours, &waits).await;
    let storage = options.connect_with(database.options_of(&role));
    let storage = storage.await.unwrap();
    storage.migrate().await.unwrap();
    execute(&mut ours, RECORD).await;
    let new = || message("q").check(100).unwrap();
    storage.enqueue(vec![new(), new()]).await.unwrap();
    let enqueue = seen(&mut ours).await;
    let claimed = claim(&storage, &pending("q", 2)).await;
    let claimed_as = seen(&mut ours).await;
    claim(&storage, &expired("q", 1)).await;
    let reclaim = seen(&mut ours).await;
    let renewal = Renewal::new(claimed.messages[0].held(), Duration::from_secs(60));
    storage.renew(&[renewal]).await.unwrap();
    let renew = seen(&mut ours).await;
    let dead = Verdict::Dead {
        reason: DeadReason::Exhausted,
        error: "no".into(),
    };
    storage.settle(&settle_all(&claimed, &dead)).await.unwrap();
    let settle = seen(&mut ours).await;
    let revived = storage.revive(ids(&claimed)[0]).await.unwrap();
    assert_eq!(revived, Revived::Revived);
    let revive = seen(&mut ours).await;
    let purged = storage.purge_dead_letters(None, Duration::ZERO).await;
    assert_eq!(purged.unwrap(), 1);
    let purge = seen(&mut ours).await;
    [enqueue, claimed_as, reclaim, renew, settle, revive, purge]
}

#[tokio::test]
async fn relaxed_are_claims_renewals_and_settles_and_nothing_else() {
    let found = write_everything(&database().await, relaxed()).await;
    let (strict, off) = ("remote_write", "off");
    assert_eq!(
        found,
        [[strict], [off], [off], [off], [off], [strict], [strict]]
    );
}

#[tokio::test]
async fn by_default_every_statement_is_as_durable_as_the_server_says() {
    let found = write_everything(&database().await, PgStorage::options()).await;
    assert_eq!(found, [["remote_write"]; 7]);
}

#[tokio::test]
async fn migrations_are_strict() {
    let database = database().await;
    let mut ours = database.connect().await;
    execute(
        &mut ours,
        "create table public.seen (value text);
         create function public.record() returns event_trigger language plpgsql as $$
         begin insert into public.seen values (current_setting('synchronous_commit')); end $$;
         create event trigger record on ddl_command_end execute function public.record()",
    )
    .await;
    let storage = relaxed().connect_with(database.options()).await.unwrap();
    storage.migrate().await.unwrap();
    assert_eq!(seen(&mut ours).await, ["on"]);
}

#[tokio::test]
async fn what_is_durable_takes_a_connection_more_and_only_when_it_is_needed() {
    let database = database().await;
    let mut ours = database.connect().await;
    let storage = relaxed().connect_with(database.options()).await.unwrap();
    storage.migrate().await.unwrap();
    support::until_own_connections(&mut ours, 1).await;
    claim(&storage, &pending("q", 1)).await;
    assert_eq!(own_connections(&mut ours).await, 1);
    let new = || message("q").check(100).unwrap();
    storage.enqueue(vec![new()]).await.unwrap();
    storage.enqueue(vec![new()]).await.unwrap();
    assert_eq!(own_connections(&mut ours).await, 2);
}

/// A server that writes its log only where a commit waits for that, or ten seconds later: a crash
/// undoes as much as it can.
fn lazy_server() -> Server {
    let options = ServerOptions::new()
        .set("wal_writer_delay", "10s")
        .set("autovacuum", "off");
    Server::start_throwaway(&options).unwrap()
}

fn set(ids: &[MessageId]) -> BTreeSet<MessageId> {
    ids.iter().copied().collect()
}

#[tokio::test]
async fn a_crash_of_the_server_loses_no_message_and_refuses_what_was_undone() {
    let server = lazy_server();
    let database = server.database().await.unwrap();
    let storage = relaxed().connect(&database.url()).await.unwrap();
    storage.migrate().await.unwrap();
    let new = || message("q").check(100).unwrap();
    let enqueued = storage.enqueue((0..20).map(|_| new()).collect()).await;
    let enqueued: Vec<MessageId> = enqueued.unwrap().into_iter().flatten().collect();
    let claimed = claim(&storage, &pending("q", 10)).await;
    let done = settle_all(&claimed, &Verdict::Done);
    let settled = storage.settle(&done[..5]).await.unwrap().written;
    assert_eq!(settled.len(), 5);

    server.restart(Shutdown::Immediate).unwrap();

    // What is free is everything that nobody holds. The claim may be undone, or the settle, or both.
    let again = claim(&storage, &pending("q", 100)).await;
    let late = storage.settle(&done).await.unwrap().written;
    assert_eq!(set(&late).intersection(&set(&ids(&again))).count(), 0);
    let mut found = set(&late);
    found.extend(ids(&again));
    let unsettled = set(&enqueued);
    let unsettled = unsettled.difference(&set(&settled)).copied().collect();
    assert!(found.is_superset(&unsettled), "{found:?}");
    let rest = storage.settle(&settle_all(&again, &Verdict::Done)).await;
    assert_eq!(set(&rest.unwrap().written), set(&ids(&again)));
    assert_eq!(left(&database.url()).await, (0, 0));
}

#[tokio::test]
async fn a_crash_of_the_server_undoes_nothing_that_was_enqueued_revived_or_purged() {
    let server = lazy_server();
    let database = server.database().await.unwrap();
    let storage = relaxed().connect(&database.url()).await.unwrap();
    storage.migrate().await.unwrap();
    let new = || message("q").check(100).unwrap();
    let dead = Verdict::Dead {
        reason: DeadReason::Exhausted,
        error: "no".into(),
    };

    storage.enqueue(vec![new(), new()]).await.unwrap();
    server.restart(Shutdown::Immediate).unwrap();
    assert_eq!(left(&database.url()).await, (2, 0));

    let claimed = claim(&storage, &pending("q", 2)).await;
    storage.settle(&settle_all(&claimed, &dead)).await.unwrap();
    storage.revive(ids(&claimed)[0]).await.unwrap();
    server.restart(Shutdown::Immediate).unwrap();
    // The log is one: what is strict takes everything before it along.
    assert_eq!(left(&database.url()).await, (1, 1));

    storage
        .purge_dead_letters(None, Duration::ZERO)
        .await
        .unwrap();
    server.restart(Shutdown::Immediate).unwrap();
    assert_eq!(left(&database.url()).await, (1, 0));
}

/// How many messages and dead letters there are.
async fn left(url: &str) -> (i64, i64) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let messages = number(&mut connection, "select count(*) from outbox.message").await;
    let dead = number(&mut connection, "select count(*) from outbox.dead_letter").await;
    (messages, dead)
}
