//! Notifications: which are sent, and that a listener survives what happens to it.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::future::FutureExt;
use outbox_core::{BoxStream, Storage};
use outbox_sqlx::{PgOutbox, PgStorage, WakeUps};
use sqlx::Connection;
use sqlx::postgres::PgListener;
use support::{
    Database, FastRuntime, database, execute, message, own_connections, until_own_connections,
};

/// Everything notified until now, in order.
async fn notified(database: &Database, listener: &mut PgListener) -> Vec<String> {
    let mut ours = database.connect().await;
    execute(&mut ours, "select pg_notify('outbox_wake_up', '(end)')").await;
    let mut payloads = Vec::new();
    loop {
        let payload = listener.recv().await.unwrap().payload().to_owned();
        if payload == "(end)" {
            return payloads;
        }
        payloads.push(payload);
    }
}

async fn listen(database: &Database) -> PgListener {
    let pool = database.pool(1).await;
    let mut listener = PgListener::connect_with(&pool).await.unwrap();
    listener.listen("outbox_wake_up").await.unwrap();
    listener
}

#[tokio::test]
async fn one_notification_per_transaction_and_queue() {
    let database = database().await;
    database.storage().await;
    let mut listener = listen(&database).await;
    let outbox = PgOutbox::new();
    let mut ours = database.connect().await;
    let mut tx = ours.begin().await.unwrap();
    for _ in 0..3 {
        outbox.enqueue(&mut tx, message("a")).await.unwrap();
    }
    outbox
        .enqueue_many(&mut tx, [message("b"), message("a"), message("b")])
        .await
        .unwrap();
    let mut savepoint = tx.begin().await.unwrap();
    outbox.enqueue(&mut savepoint, message("c")).await.unwrap();
    savepoint.rollback().await.unwrap();
    tx.commit().await.unwrap();
    let mut payloads = notified(&database, &mut listener).await;
    payloads.sort();
    assert_eq!(payloads, ["a", "b"]);
    outbox.enqueue(&mut ours, message("a")).await.unwrap();
    assert_eq!(notified(&database, &mut listener).await, ["a"]);
}

#[tokio::test]
async fn a_rolled_back_savepoint_does_not_silence_the_transaction() {
    let database = database().await;
    database.storage().await;
    let mut listener = listen(&database).await;
    let outbox = PgOutbox::new();
    let mut ours = database.connect().await;
    let mut tx = ours.begin().await.unwrap();
    let mut savepoint = tx.begin().await.unwrap();
    outbox.enqueue(&mut savepoint, message("a")).await.unwrap();
    savepoint.rollback().await.unwrap();
    outbox.enqueue(&mut tx, message("a")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(notified(&database, &mut listener).await, ["a"]);
}

#[tokio::test]
async fn nothing_is_notified_for_what_cannot_start() {
    let database = database().await;
    database.storage().await;
    let mut listener = listen(&database).await;
    let outbox = PgOutbox::new();
    let mut ours = database.connect().await;
    outbox
        .enqueue(&mut ours, message("q").key("k"))
        .await
        .unwrap();
    assert_eq!(notified(&database, &mut listener).await, ["q"]);
    let later = || message("q").after(Duration::from_secs(60));
    let instant = SystemTime::now() + Duration::from_secs(3600);
    let mut tx = ours.begin().await.unwrap();
    outbox.enqueue(&mut tx, message("q")).await.unwrap();
    tx.rollback().await.unwrap();
    outbox.enqueue(&mut ours, later()).await.unwrap();
    outbox
        .enqueue(&mut ours, message("q").at(instant))
        .await
        .unwrap();
    outbox
        .enqueue(&mut ours, message("q").key("k"))
        .await
        .unwrap();
    outbox
        .enqueue_many(&mut ours, [later(), message("q").key("k")])
        .await
        .unwrap();
    assert!(notified(&database, &mut listener).await.is_empty());
    outbox
        .enqueue(&mut ours, message("q").at(SystemTime::UNIX_EPOCH))
        .await
        .unwrap();
    assert_eq!(notified(&database, &mut listener).await, ["q"]);
}

#[tokio::test]
async fn many_wake_the_queues_in_which_one_can_start() {
    let database = database().await;
    database.storage().await;
    let mut listener = listen(&database).await;
    let outbox = PgOutbox::new();
    let mut ours = database.connect().await;
    let later = |queue| message(queue).after(Duration::from_secs(60));
    let past = |queue| message(queue).at(SystemTime::UNIX_EPOCH);
    for (drafts, woken) in [
        (
            vec![later("a"), message("b"), later("b"), past("c")],
            vec!["b", "c"],
        ),
        (vec![later("a"), later("b")], vec![]),
        (vec![later("a"), message("a")], vec!["a"]),
        (vec![later("a"), past("a")], vec!["a"]),
        (vec![message("a"), message("a")], vec!["a"]),
    ] {
        outbox.enqueue_many(&mut ours, drafts).await.unwrap();
        let mut payloads = notified(&database, &mut listener).await;
        payloads.sort();
        assert_eq!(payloads, woken);
    }
}

#[tokio::test]
async fn the_other_policies_leave_the_commit_alone() {
    let database = database().await;
    database.storage().await;
    let mut listener = listen(&database).await;
    let mut ours = database.connect().await;
    for policy in [WakeUps::Off, WakeUps::AfterCommit] {
        let outbox = PgOutbox::new().wake_ups(policy);
        let mut tx = ours.begin().await.unwrap();
        outbox.enqueue(&mut tx, message("q")).await.unwrap();
        outbox.enqueue_many(&mut tx, [message("q")]).await.unwrap();
        tx.commit().await.unwrap();
        assert!(notified(&database, &mut listener).await.is_empty());
    }
    let outbox = PgOutbox::new().wake_ups(WakeUps::AfterCommit);
    outbox.announce(&mut ours, &["a", "b", "a"]).await.unwrap();
    let mut payloads = notified(&database, &mut listener).await;
    payloads.sort();
    assert_eq!(payloads, ["a", "b"]);
}

fn wake_ups(storage: &PgStorage) -> BoxStream<'static, ()> {
    storage.wake_ups(vec![Arc::from("q")], Arc::new(FastRuntime))
}

#[tokio::test]
async fn a_listener_hints_when_it_connects_and_when_a_message_commits() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    let mut hints = wake_ups(&storage);
    hints.next().await.unwrap();
    let outbox = storage.outbox();
    outbox.enqueue(&mut ours, message("q")).await.unwrap();
    hints.next().await.unwrap();
}

#[tokio::test]
async fn a_listener_comes_back_and_hints_after_its_connection_is_ended() {
    let database = database().await;
    let storage = PgStorage::options().prepare(database.options()).unwrap();
    storage.migrate().await.unwrap();
    let mut ours = database.connect().await;
    let mut hints = wake_ups(&storage);
    hints.next().await.unwrap();
    for _ in 0..3 {
        execute(
            &mut ours,
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name = 'outbox'",
        )
        .await;
        hints.next().await.unwrap();
    }
    let outbox = storage.outbox();
    outbox.enqueue(&mut ours, message("q")).await.unwrap();
    hints.next().await.unwrap();
}

#[tokio::test]
async fn a_dropped_stream_closes_its_connection() {
    let database = database().await;
    let storage = PgStorage::options().prepare(database.options()).unwrap();
    storage.migrate().await.unwrap();
    let mut ours = database.connect().await;
    let mut hints = wake_ups(&storage);
    hints.next().await.unwrap();
    until_own_connections(&mut ours, 1).await;
    drop(hints);
    until_own_connections(&mut ours, 0).await;
}

#[test]
fn a_stream_may_be_dropped_outside_of_its_runtime_and_after_it() {
    for outlive in [false, true] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (database, hints) = runtime.block_on(async {
            let database = database().await;
            let storage = database.storage().await;
            let mut hints = wake_ups(&storage);
            hints.next().await.unwrap();
            (database, hints)
        });
        if outlive {
            drop(runtime);
            drop(hints);
        } else {
            std::thread::spawn(move || drop(hints)).join().unwrap();
            drop(runtime);
        }
        drop(database);
    }
}

#[tokio::test]
async fn without_wake_ups_nobody_listens() {
    let database = database().await;
    let storage = PgStorage::options()
        .wake_ups(WakeUps::Off)
        .prepare(database.options())
        .unwrap();
    let mut hints = wake_ups(&storage);
    assert!(hints.next().now_or_never().is_none());
    let mut ours = database.connect().await;
    assert_eq!(own_connections(&mut ours).await, 0);
}
