//! Connections that a network or a server makes unusable without closing them: what only a probe,
//! or the listener itself, can notice.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use futures_util::StreamExt;
use outbox_core::Storage;
use outbox_sqlx::PgStorage;
use support::proxy::Proxy;
use support::{FastRuntime, database, message, until_own_connections};

#[tokio::test]
async fn a_listener_on_a_silent_connection_is_replaced() {
    let database = database().await;
    database.storage().await;
    let proxy = Proxy::start(database.options()).await;
    let options = database.options().host("127.0.0.1").port(proxy.port);
    let storage = PgStorage::options().prepare(options).unwrap();
    let mut hints = storage.wake_ups(vec![Arc::from("q")], Arc::new(FastRuntime));
    hints.next().await.unwrap();
    proxy.fall_silent();
    // The probe finds out, and the new connection gives its hint.
    hints.next().await.unwrap();
    let mut ours = database.connect().await;
    storage
        .outbox()
        .enqueue(&mut ours, message("q"))
        .await
        .unwrap();
    hints.next().await.unwrap();
}

#[tokio::test]
async fn a_listen_that_is_refused_leaves_no_connection_behind() {
    let database = database().await;
    let direct = PgStorage::options().prepare(database.options()).unwrap();
    direct.migrate().await.unwrap();
    let mut ours = database.connect().await;
    let proxy = Proxy::start(database.options()).await;
    proxy.refuse_listens(4);
    let options = database.options().host("127.0.0.1").port(proxy.port);
    let storage = PgStorage::options().prepare(options).unwrap();
    let mut hints = storage.wake_ups(vec![Arc::from("q")], Arc::new(FastRuntime));
    // Only a connection that listens gives one.
    hints.next().await.unwrap();
    assert_eq!(proxy.listens_to_refuse(), 0);
    until_own_connections(&mut ours, 1).await;
    drop(hints);
    until_own_connections(&mut ours, 0).await;
}
