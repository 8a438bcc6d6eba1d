//! Drain: a worker in its default configuration takes a full queue down to nothing, next to the
//! bare claim and settle on one connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use outbox::Event;
use outbox::postgres::PgStorage;
use serde_json::json;
use sqlx::Connection;

use crate::arguments::Arguments;
use crate::measure::{Cost, Spread};
use crate::report::Report;
use crate::server::{Bench, connect};
use crate::workload::Noop;
use crate::{Error, bare};

/// One drain of a full queue.
struct Round {
    messages_per_second: f64,
    cost: Cost,
    /// What the worker says of itself; zero for the bare loop.
    exchanges: u64,
    /// Messages of the non-empty claims.
    claims: Vec<f64>,
    /// From the start of the run to the first claim's answer.
    first_claim: Duration,
}

pub(crate) async fn run(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
) -> Result<(), Error> {
    let messages = arguments.messages.unwrap_or(20_000);
    report.note(&format!(
        "drain: {messages} no-op messages of 100 bytes, one queue; a default worker, from the start of its run \
         to its last settle, and a bare claim({}) + settle loop on one connection; connecting is not counted",
        bare::BATCH
    ));
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 1..=arguments.rounds {
        let our_round = drain_with_worker(bench, messages).await?;
        let bare_round = drain_bare(bench, messages).await?;
        report.note(&format!(
            "  round {round}: ours {:>7.0}/s   bare {:>7.0}/s   ratio {:.2}",
            our_round.messages_per_second,
            bare_round.messages_per_second,
            our_round.messages_per_second / bare_round.messages_per_second,
        ));
        ours.push(our_round);
        bare.push(bare_round);
    }
    let ratio = tell(report, messages, &ours, &bare);
    match arguments.assert_ratio {
        Some(least) if ratio < least => {
            Err(format!("the drain ratio is {ratio:.2}, less than {least}").into())
        }
        Some(_) | None => Ok(()),
    }
}

async fn drain_with_worker(bench: &Bench, messages: usize) -> Result<Round, Error> {
    let database = bench.filled(messages).await?;
    let storage = PgStorage::connect(&database.url()).await?;
    let seen = Arc::new(Seen::default());
    let observer = Arc::clone(&seen);
    let worker = outbox::tokio::worker(storage)
        .register::<Noop>()
        .observe(move |event| observer.note(event, messages))
        .prepare()?;
    let count = bench.meter.start(&database).await?;
    let (last_settled, settled) = tokio::sync::oneshot::channel();
    seen.tell_last(last_settled);
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
    let cost = count.finish(&database).await?;
    let left = database
        .count("select count(*) from outbox.message")
        .await?;
    if outcome.done != messages as u64 || left != 0 {
        return Err(format!("{} of {messages} are done and {left} left", outcome.done).into());
    }
    let times = seen.times();
    let elapsed = times.last_settled.unwrap_or(started) - started;
    Ok(Round {
        messages_per_second: messages as f64 / elapsed.as_secs_f64(),
        cost,
        exchanges: outcome.exchanges,
        claims: times.claims,
        first_claim: times.first_claim.unwrap_or(started) - started,
    })
}

async fn drain_bare(bench: &Bench, messages: usize) -> Result<Round, Error> {
    let database = bench.filled(messages).await?;
    let mut connection = connect(&database).await?;
    let count = bench.meter.start(&database).await?;
    let started = Instant::now();
    let settled = bare::drain(&mut connection).await?;
    let elapsed = started.elapsed();
    connection.close().await?;
    let cost = count.finish(&database).await?;
    if settled != messages as u64 {
        return Err(format!("{settled} of {messages} were settled").into());
    }
    Ok(Round {
        messages_per_second: messages as f64 / elapsed.as_secs_f64(),
        cost,
        exchanges: 0,
        claims: Vec::new(),
        first_claim: Duration::ZERO,
    })
}

/// Prints the summary and returns the ratio of the medians.
fn tell(report: &Report, messages: usize, ours: &[Round], bare: &[Round]) -> f64 {
    let rates = |rounds: &[Round]| {
        let rates: Vec<f64> = rounds
            .iter()
            .map(|round| round.messages_per_second)
            .collect();
        Spread::of(&rates)
    };
    let pairs: Vec<f64> = ours
        .iter()
        .zip(bare)
        .map(|(ours, bare)| ours.messages_per_second / bare.messages_per_second)
        .collect();
    let (our_rates, bare_rates, ratios) = (rates(ours), rates(bare), Spread::of(&pairs));
    for (name, rates, rounds) in [("ours", our_rates, ours), ("bare", bare_rates, bare)] {
        report.note(&format!(
            "  {name}: {:.0} messages/s (min {:.0}, max {:.0})",
            rates.median, rates.min, rates.max
        ));
        let Some(last) = rounds.last() else { continue };
        report.note(&format!("    {}", last.cost.line(messages)));
        for line in last.cost.statement_lines() {
            report.note(&format!("    {line}"));
        }
    }
    if let Some(last) = ours.last() {
        let claims = Spread::of(&last.claims);
        report.note(&format!(
            "  ours, last round: {} exchanges; {} claims with messages of {} (min {}, max {}); \
             first claim answered after {:.1} ms",
            last.exchanges,
            last.claims.len(),
            claims.median,
            claims.min,
            claims.max,
            last.first_claim.as_secs_f64() * 1_000.0
        ));
    }
    report.note(&format!(
        "  ratio: {:.2} (min {:.2}, max {:.2})",
        ratios.median, ratios.min, ratios.max
    ));
    let cost = |rounds: &[Round]| rounds.last().map(|round| round.cost.per_message(messages));
    report.result(json!({
        "workload": "drain",
        "unit": "messages/s",
        "messages": messages,
        "rounds": ours.len(),
        "ours": our_rates.median,
        "bare": bare_rates.median,
        "ratio": ratios.median,
        "ours_spread": our_rates.json(),
        "bare_spread": bare_rates.json(),
        "ratio_spread": ratios.json(),
        "ours_per_message": cost(ours),
        "bare_per_message": cost(bare),
        "exchanges": ours.last().map(|round| round.exchanges),
    }));
    ratios.median
}

/// What the events of a run say.
#[derive(Default)]
struct Seen {
    settled: AtomicUsize,
    // Guards the times; never held over an await.
    times: Mutex<Times>,
}

#[derive(Default)]
struct Times {
    first_claim: Option<Instant>,
    last_settled: Option<Instant>,
    claims: Vec<f64>,
    tell_last: Option<tokio::sync::oneshot::Sender<()>>,
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
    fn tell_last(&self, sender: tokio::sync::oneshot::Sender<()>) {
        self.with(|times| times.tell_last = Some(sender));
    }

    fn note(&self, event: &Event<'_>, messages: usize) {
        match event {
            Event::Claimed { count, .. } if *count > 0 => self.with(|times| {
                times.first_claim.get_or_insert_with(Instant::now);
                times.claims.push(*count as f64);
            }),
            Event::Settled { .. } => {
                let settled = self.settled.fetch_add(1, Ordering::Relaxed) + 1;
                if settled == messages {
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
