//! Wake-ups: one connection that listens, is probed, and is opened again when lost. A lost
//! notification costs a poll interval and nothing else, so every doubt ends in one hint.

use std::sync::Arc;
use std::time::Duration;

use futures_channel::{mpsc, oneshot};
use futures_util::future::select;
use futures_util::stream::{self, StreamExt};
use outbox_core::{BoxStream, Runtime, timeout};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{PgPool, Row, SqlStr};

use crate::outage::{LAST_BACKOFF, Outage};
use crate::producer::WakeUps;
use crate::storage::Inner;

/// sqlx sets no keepalive on its sockets, so a half-open one would be silent for ever.
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Connecting has no limit of its own either.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// The hints for these queues.
///
/// The connection lives in a task of the runtime and the stream holds the other end of a channel:
/// dropping a `PgListener` spawns, which panics outside of a runtime, and the stream may be
/// dropped anywhere. A runtime drops its tasks inside of itself.
pub(crate) fn wake_ups(
    inner: &Inner,
    queues: Vec<Arc<str>>,
    runtime: Arc<dyn Runtime>,
) -> BoxStream<'static, ()> {
    if inner.wake_ups == WakeUps::Off {
        return stream::pending().boxed();
    }
    // One slot: hints that nobody has read yet are one hint.
    let (hints, received) = mpsc::channel(0);
    let (mut gone, alive) = oneshot::channel::<()>();
    let agent = Listener {
        options: inner.options.clone(),
        channel: inner.schema.channel(),
        probe: inner.statements.probe.clone(),
        queues,
        runtime: runtime.clone(),
        hints,
    };
    runtime.spawn(Box::pin(async move {
        let run = std::pin::pin!(agent.run());
        // Ends when the stream is dropped.
        select(run, gone.cancellation()).await;
    }));
    // The stream owns `alive` and ends with it.
    stream::unfold((received, alive), |(mut received, alive)| async move {
        match received.next().await {
            Some(()) => Some(((), (received, alive))),
            // The task is gone, so the runtime is: never end, as promised.
            None => std::future::pending().await,
        }
    })
    .boxed()
}

struct Listener {
    options: PgConnectOptions,
    channel: String,
    probe: SqlStr,
    queues: Vec<Arc<str>>,
    runtime: Arc<dyn Runtime>,
    hints: mpsc::Sender<()>,
}

impl Listener {
    async fn run(mut self) {
        let mut outage = Outage::default();
        loop {
            let error = match self.connect().await {
                Ok(listener) => {
                    outage.over();
                    // What was committed while nobody listened.
                    self.hint();
                    let since = self.runtime.now();
                    let error = self.listen(listener).await;
                    if self.runtime.now().duration_since(since) > LAST_BACKOFF {
                        outage.forget_backoff();
                    }
                    error
                }
                Err(error) => error,
            };
            outage.begin(&error);
            self.runtime.sleep(outage.next_backoff()).await;
        }
    }

    async fn connect(&self) -> Result<PgListener, sqlx::Error> {
        let connecting = async {
            let mut listener = PgListener::connect_with(&self.pool()).await?;
            // Reconnecting is ours: it must be limited, spread out and followed by a hint.
            listener.eager_reconnect(false);
            listener.ignore_pool_close_event(true);
            listener.listen(&self.channel).await?;
            Ok(listener)
        };
        timeout(self.runtime.as_ref(), CONNECT_LIMIT, connecting)
            .await
            .unwrap_or_else(|| Err(timed_out("connecting to listen")))
    }

    /// A pool because `PgListener` takes nothing else; it holds this one connection.
    fn pool(&self) -> PgPool {
        PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(CONNECT_LIMIT)
            .connect_lazy_with(self.options.clone())
    }

    /// Hints until the connection is lost, and returns why.
    async fn listen(&mut self, mut listener: PgListener) -> sqlx::Error {
        loop {
            let received = timeout(self.runtime.as_ref(), PROBE_EVERY, listener.try_recv()).await;
            match received {
                Some(Ok(Some(notification))) => {
                    if concerns(&self.queues, notification.payload()) {
                        self.hint();
                    }
                }
                Some(Ok(None)) => return closed(),
                Some(Err(error)) => return error,
                None => {
                    if let Err(error) = self.probe(&mut listener).await {
                        return error;
                    }
                }
            }
        }
    }

    /// Asks on the same session whether it still listens; a pooler may have swapped it.
    async fn probe(&self, listener: &mut PgListener) -> Result<(), sqlx::Error> {
        let asking = sqlx::query(self.probe.clone())
            .bind(&self.channel)
            .fetch_one(listener);
        match timeout(self.runtime.as_ref(), PROBE_LIMIT, asking).await {
            Some(Ok(row)) if row.try_get("listening")? => Ok(()),
            Some(Ok(_)) => Err(closed()),
            Some(Err(error)) => Err(error),
            None => Err(timed_out("probing the listening connection")),
        }
    }

    fn hint(&mut self) {
        // Full means that a hint is waiting already.
        let _ = self.hints.try_send(());
    }
}

/// Whether a notification is about one of these queues, or says nothing that could tell.
fn concerns(queues: &[Arc<str>], payload: &str) -> bool {
    payload.is_empty()
        || payload.len() > outbox_core::MAX_NAME_BYTES
        || queues.iter().any(|queue| queue.as_ref() == payload)
}

fn closed() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::UnexpectedEof,
        "the server closed the listening connection",
    ))
}

fn timed_out(what: &'static str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_served_queues_and_odd_payloads_wake() {
        let queues = [Arc::from("mail"), Arc::from("sms")];
        assert!(concerns(&queues, "mail"));
        assert!(concerns(&queues, "sms"));
        assert!(!concerns(&queues, "mai"));
        assert!(!concerns(&queues, "orders"));
        assert!(concerns(&queues, ""));
        assert!(concerns(&queues, &"x".repeat(256)));
    }

    #[test]
    fn backoff_doubles_within_its_bounds_and_starts_again() {
        let mut outage = Outage::default();
        for most in [1, 2, 4, 8, 16, 30, 30] {
            let most = Duration::from_secs(most);
            let backoff = outage.next_backoff();
            assert!(
                backoff <= most && backoff >= most / 2,
                "{backoff:?} of {most:?}"
            );
        }
        outage.forget_backoff();
        assert!(outage.next_backoff() <= Duration::from_secs(1));
    }
}
