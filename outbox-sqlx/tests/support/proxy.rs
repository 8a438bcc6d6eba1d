//! A proxy between us and Postgres, for what a network or a server does to a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

/// Forwards connections to Postgres. What was connected before a silence stays open and hears
/// nothing more; what connects afterwards works.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    silences: watch::Sender<u32>,
    listens_to_refuse: Arc<AtomicU32>,
}

impl Proxy {
    pub(crate) async fn start(server: PgConnectOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (silences, heard) = watch::channel(0);
        let listens_to_refuse = Arc::new(AtomicU32::new(0));
        let to_refuse = listens_to_refuse.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (from_client, to_client) = client.into_split();
                let mut heard = heard.clone();
                heard.mark_unchanged();
                let refuse_listens = refuse_listens(to_refuse.clone());
                if let Some(folder) = server.get_socket() {
                    let path = folder.join(format!(".s.PGSQL.{}", server.get_port()));
                    let (from, to) = UnixStream::connect(path).await.unwrap().into_split();
                    tokio::spawn(forward(from_client, to, heard.clone(), refuse_listens));
                    tokio::spawn(forward(from, to_client, heard, |_| ()));
                } else {
                    let address = (server.get_host(), server.get_port());
                    let (from, to) = TcpStream::connect(address).await.unwrap().into_split();
                    tokio::spawn(forward(from_client, to, heard.clone(), refuse_listens));
                    tokio::spawn(forward(from, to_client, heard, |_| ()));
                }
            }
        });
        Self {
            port,
            silences,
            listens_to_refuse,
        }
    }

    /// Makes the server refuse this many statements that listen, as a syntax error.
    pub(crate) fn refuse_listens(&self, count: u32) {
        self.listens_to_refuse.store(count, Ordering::SeqCst);
    }

    /// How many of them are still to come.
    pub(crate) fn listens_to_refuse(&self) -> u32 {
        self.listens_to_refuse.load(Ordering::SeqCst)
    }

    pub(crate) fn fall_silent(&self) {
        self.silences.send_modify(|count| *count += 1);
    }
}

/// Breaks the word in what a client sends, without changing its length.
fn refuse_listens(left: Arc<AtomicU32>) -> impl FnMut(&mut [u8]) {
    move |bytes| {
        let word = b"LISTEN \"";
        let Some(at) = bytes.windows(word.len()).position(|here| here == word) else {
            return;
        };
        let less = |left: u32| left.checked_sub(1);
        if left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .is_ok()
        {
            bytes[at] = b'?';
        }
    }
}

async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut heard: watch::Receiver<u32>,
    mut change: impl FnMut(&mut [u8]),
) {
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(bytes) => {
                    change(&mut buffer[..bytes]);
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
