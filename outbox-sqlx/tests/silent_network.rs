//! A network that goes silent without closing anything: what only a probe can notice.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use futures_util::StreamExt;
use outbox_core::Storage;
use outbox_sqlx::PgStorage;
use sqlx::postgres::PgConnectOptions;
use support::{FastRuntime, database, message};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

/// Forwards connections to Postgres. What was connected before a silence stays open and hears
/// nothing more; what connects afterwards works.
struct Proxy {
    port: u16,
    silences: watch::Sender<u32>,
}

impl Proxy {
    async fn start(server: PgConnectOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (silences, heard) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (from_client, to_client) = client.into_split();
                let mut heard = heard.clone();
                heard.mark_unchanged();
                if let Some(folder) = server.get_socket() {
                    let path = folder.join(format!(".s.PGSQL.{}", server.get_port()));
                    let (from, to) = UnixStream::connect(path).await.unwrap().into_split();
                    tokio::spawn(forward(from_client, to, heard.clone()));
                    tokio::spawn(forward(from, to_client, heard));
                } else {
                    let address = (server.get_host(), server.get_port());
                    let (from, to) = TcpStream::connect(address).await.unwrap().into_split();
                    tokio::spawn(forward(from_client, to, heard.clone()));
                    tokio::spawn(forward(from, to_client, heard));
                }
            }
        });
        Self { port, silences }
    }

    fn fall_silent(&self) {
        self.silences.send_modify(|count| *count += 1);
    }
}

async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut heard: watch::Receiver<u32>,
) {
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(bytes) => {
                    if to.write_all(&buffer[..bytes]).await.is_err() {
                        return;
                    }
                }
            },
            // Keeps both sockets open and reads no more.
            _ = heard.changed() => std::future::pending().await,
        }
    }
}

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
