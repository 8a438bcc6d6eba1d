//! What is measured: a worker that takes a queue down.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use outbox::postgres::{PgStorage, PgStorageOptions};
use outbox::{Event, Worker};
use tokio::sync::oneshot;

use crate::Error;
use crate::measure::Spread;
use crate::round::Round;
use crate::server::Bench;
use crate::state::State;

/// Settles the first so many messages on Postgres. `configure` registers the handlers.
pub(crate) async fn drain(
    bench: &Bench,
    state: &State,
    messages: usize,
    configure: impl FnOnce(Worker) -> Worker,
) -> Result<Round, Error> {
    drain_with(bench, state, messages, PgStorage::options(), configure).await
}

/// The same with settings of the storage.
pub(crate) async fn drain_with(
    bench: &Bench,
    state: &State,
    messages: usize,
    options: PgStorageOptions,
    configure: impl FnOnce(Worker) -> Worker,
) -> Result<Round, Error> {
    let database = bench.filled(state).await?;
    let storage = options.connect(&database.url()).await?;
    let worker = configure(outbox::tokio::worker(storage));
    let count = bench.meter.start(&database).await?;
    let round = settle(worker, messages).await?;
    let cost = count.finish(&database).await?;
    let left = "select count(*) from outbox.message";
    let left = usize::try_from(database.count(left).await?)?;
    check(&round, state.in_message_table(), left)?;
    Ok(Round {
        cost: Some(cost),
        ..round
    })
}

/// Everything that was there is settled, or still there.
pub(crate) fn check(round: &Round, before: usize, left: usize) -> Result<(), Error> {
    if round.messages + left == before {
        return Ok(());
    }
    let done = round.messages;
    Err(format!("of {before} messages {done} are done and {left} left").into())
}

/// Runs a worker until so many messages are settled, from the start of the run to the last of them;
/// connecting is not counted.
pub(crate) async fn settle(worker: Worker, messages: usize) -> Result<Round, Error> {
    let (last_settled, settled) = oneshot::channel();
    let seen = Arc::new(Seen::new(messages, last_settled));
    let observer = Arc::clone(&seen);
    let worker = worker
        .observe(move |event| observer.note(event))
        .prepare()?;
    let started = Instant::now();
    let run = worker.run_until(async move {
        // A worker that failed never sends; then its own error ends the run.
        if settled.await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    // A stuck run is an error, and never a result.
    let ended = tokio::time::timeout(Duration::from_secs(600), run).await?;
    let outcome = ended?;
    let done = usize::try_from(outcome.done)?;
    if done < messages {
        return Err(format!("{done} of at least {messages} are done").into());
    }
    let times = seen.times();
    let elapsed = times.last_settled.unwrap_or(started) - started;
    let claims = Spread::of(&times.claims);
    let first_claim = times.first_claim.unwrap_or(started) - started;
    Ok(Round {
        rate: messages as f64 / elapsed.as_secs_f64(),
        messages: done,
        exchanges: Some(outcome.exchanges),
        note: Some(format!(
            "{} exchanges; {} claims with messages of {}; first claim answered after {:.1} ms",
            outcome.exchanges,
            times.claims.len(),
            claims.line(0),
            first_claim.as_secs_f64() * 1_000.0
        )),
        ..Round::default()
    })
}

/// What the events of a run say.
struct Seen {
    messages: usize,
    settled: AtomicUsize,
    // Guards the times; never held over an await.
    times: Mutex<Times>,
}

#[derive(Default)]
struct Times {
    first_claim: Option<Instant>,
    last_settled: Option<Instant>,
    claims: Vec<f64>,
    tell_last: Option<oneshot::Sender<()>>,
}

impl Times {
    fn end(&mut self) {
        self.last_settled = Some(Instant::now());
        if let Some(sender) = self.tell_last.take() {
            // The receiver is gone only if the run has ended.
            let _ = sender.send(());
        }
    }
}

impl Seen {
    /// Tells when so many messages are settled.
    fn new(messages: usize, tell_last: oneshot::Sender<()>) -> Self {
        Self {
            messages,
            settled: AtomicUsize::new(0),
            times: Mutex::new(Times {
                tell_last: Some(tell_last),
                ..Times::default()
            }),
        }
    }

    fn note(&self, event: &Event<'_>) {
        match event {
            Event::Claimed { count, .. } if *count > 0 => self.with(|times| {
                times.first_claim.get_or_insert_with(Instant::now);
                times.claims.push(*count as f64);
            }),
            Event::Settled { .. } => {
                let settled = self.settled.fetch_add(1, Ordering::Relaxed) + 1;
                if settled == self.messages {
                    self.with(Times::end);
                }
            }
            _ => {}
        }
    }

    fn times(&self) -> Times {
        self.with(std::mem::take)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Times) -> T) -> T {
        work(&mut self.times.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
