//! Latency: from the return of a commit to the start of the handler, on an idle worker; next to a
//! hand-written listener that claims one message when it is notified.

use std::time::{Duration, Instant};

use outbox::postgres::{PgOutbox, PgStorage};
use outbox::{BoxFuture, Context, Definition, Event, Handler, Outcome, Requirements, Worker};
use outbox_testkit::postgres::TestDatabase;
use serde_json::{Value, json};
use sqlx::Connection;
use sqlx::postgres::PgListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use uuid::Uuid;

use crate::arguments::Arguments;
use crate::measure::{Cost, Spread, percentile};
use crate::report::Report;
use crate::round::{SIDES, Side};
use crate::server::{Bench, QUEUE, connect, draft, payload};
use crate::workload::Noop;
use crate::{Error, bare};

/// Between two messages, so that each finds everybody asleep.
const PAUSE: Duration = Duration::from_millis(5);
pub(crate) const CHANNEL: &str = "outbox_bench";

pub(crate) async fn run(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
) -> Result<(), Error> {
    let messages = arguments.messages.unwrap_or(400);
    let each = messages.div_ceil(arguments.rounds());
    report.note(&format!(
        "latency: {messages} messages, one at a time, from the return of the commit to the start of the handler; \
         bare: insert, notify, listen, claim of one"
    ));
    let run = async |side, database: &TestDatabase| match side {
        Side::Ours => with_worker(database, each).await,
        Side::Bare => with_listener(database, each).await,
    };
    compare(bench, arguments, report, "latency", run).await
}

/// Runs both sides in each round, on a new database, and tells the milliseconds that `run` returns
/// for each message.
pub(crate) async fn compare(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
    name: &str,
    run: impl AsyncFn(Side, &TestDatabase) -> Result<Vec<f64>, Error>,
) -> Result<(), Error> {
    let times = async |side| {
        let database = bench.database().await?;
        let count = bench.meter.start(&database).await?;
        let milliseconds = run(side, &database).await?;
        let cost = Some(count.finish(&database).await?);
        Ok(Times { milliseconds, cost })
    };
    alternate(arguments, report, name, times).await
}

/// What a round took.
pub(crate) struct Times {
    /// For each message.
    pub(crate) milliseconds: Vec<f64>,
    pub(crate) cost: Option<Cost>,
}

/// Runs both sides in each round, and prints percentiles. The middle ones are the result.
pub(crate) async fn alternate(
    arguments: &Arguments,
    report: &Report,
    name: &str,
    run: impl AsyncFn(Side) -> Result<Times, Error>,
) -> Result<(), Error> {
    let mut all = SIDES.map(|_| Vec::new());
    let mut medians = SIDES.map(|_| Vec::new());
    let mut fields = json!({ "workload": name, "unit": "ms", "rounds": arguments.rounds() });
    for _ in 0..arguments.rounds() {
        for (index, (whose, side)) in SIDES.into_iter().enumerate() {
            let Times {
                mut milliseconds,
                cost,
            } = run(side).await?;
            let messages = milliseconds.len();
            milliseconds.sort_by(f64::total_cmp);
            let median = percentile(&milliseconds, 50.0);
            report.note(&format!("  {whose}: p50 {median:.3} ms"));
            if let Some(cost) = &cost {
                report.note(&format!("    {}", cost.line(messages)));
                for line in cost.statement_lines() {
                    report.note(&format!("    {line}"));
                }
            }
            // The last round's stays.
            let cost = cost.map(|cost| cost.per_message(messages));
            fields[format!("{whose}_per_message")] = cost.into();
            medians[index].push(median);
            all[index].append(&mut milliseconds);
        }
    }
    let [mut ours, mut bare] = all;
    ours.sort_by(f64::total_cmp);
    bare.sort_by(f64::total_cmp);
    fields["messages"] = ours.len().into();
    for percent in [50.0, 95.0, 99.0, 100.0] {
        let (ours, bare) = (percentile(&ours, percent), percentile(&bare, percent));
        report.note(&format!(
            "  {name}, p{percent}: ours {ours:.3} ms   bare {bare:.3} ms   ratio {:.2}",
            ours / bare
        ));
        fields[format!("p{percent}")] = json!({ "ours": ours, "bare": bare, "ratio": ours / bare });
    }
    let median = fields["p50"].clone();
    for name in ["ours", "bare", "ratio"] {
        fields[name] = median.get(name).cloned().unwrap_or(Value::Null);
    }
    let [ours, bare] = medians;
    let ratios: Vec<f64> = ours
        .iter()
        .zip(bare)
        .map(|(ours, bare)| ours / bare)
        .collect();
    let ratios = Spread::of(&ratios);
    report.note(&format!(
        "  {name}, ratio of p50 in a round: {}",
        ratios.line(2)
    ));
    fields["ratio_spread"] = ratios.json();
    report.result(fields);
    Ok(())
}

/// Measures beside a default worker that says when handlers start. `configure` adds what else it
/// needs.
pub(crate) async fn beside_worker<T>(
    database: &TestDatabase,
    configure: impl FnOnce(Worker) -> Worker,
    measure: impl AsyncFnOnce(UnboundedReceiver<Start>) -> Result<T, Error>,
) -> Result<T, Error> {
    let storage = PgStorage::connect(&database.url()).await?;
    let worker = configure(outbox::tokio::worker(storage));
    beside(worker, async |started| {
        wait_for_listener(database).await?;
        measure(started).await
    })
    .await
}

/// Measures beside a worker that says when handlers start.
pub(crate) async fn beside<T>(
    worker: Worker,
    measure: impl AsyncFnOnce(UnboundedReceiver<Start>) -> Result<T, Error>,
) -> Result<T, Error> {
    let (starts, started) = unbounded_channel();
    let worker = worker.data(Starts(starts)).register::<Timed>().prepare()?;
    let handle = worker.handle();
    let running = tokio::spawn(worker.run_until(std::future::pending()));
    let measured = measure(started).await;
    handle.shutdown();
    running.await??;
    measured
}

/// Milliseconds for each message.
async fn with_worker(database: &TestDatabase, messages: usize) -> Result<Vec<f64>, Error> {
    let (settles, mut settled) = unbounded_channel();
    let configure = |worker: Worker| {
        worker.observe(move |event| {
            if let Event::Settled { .. } = event {
                // Nobody listens once the last message is through.
                let _ = settles.send(());
            }
        })
    };
    let mut connection = connect(database).await?;
    beside_worker(database, configure, async |mut started| {
        let outbox = PgOutbox::new();
        let mut milliseconds = Vec::with_capacity(messages);
        for _ in 0..messages {
            let mut transaction = connection.begin().await?;
            outbox.enqueue(&mut transaction, draft()).await?;
            transaction.commit().await?;
            let committed = Instant::now();
            milliseconds.push(since(committed, next(&mut started).await?.at));
            next(&mut settled).await?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(milliseconds)
    })
    .await
}

async fn with_listener(database: &TestDatabase, messages: usize) -> Result<Vec<f64>, Error> {
    let mut listener = PgListener::connect(&database.url()).await?;
    listener.listen(CHANNEL).await?;
    let mut claimer = connect(database).await?;
    let (starts, mut started) = unbounded_channel();
    let listening = tokio::spawn(async move {
        for _ in 0..messages {
            listener.recv().await?;
            let token = Uuid::new_v4();
            let leased = bare::claim(&mut claimer, QUEUE, token, 1).await?;
            // The measuring side is gone only if it failed.
            let _ = starts.send(Start::now(&[]));
            let ids: Vec<i64> = leased.iter().map(|message| message.id).collect();
            if bare::settle(&mut claimer, token, &ids, bare::Settle::ById).await? != 1 {
                return Err("a notification came without its message".into());
            }
        }
        Ok::<_, Error>(())
    });
    let mut connection = connect(database).await?;
    let mut milliseconds = Vec::with_capacity(messages);
    for _ in 0..messages {
        let mut transaction = connection.begin().await?;
        bare::insert(&mut transaction, &payload()).await?;
        bare::notify(&mut transaction, CHANNEL).await?;
        transaction.commit().await?;
        let committed = Instant::now();
        milliseconds.push(since(committed, next(&mut started).await?.at));
        tokio::time::sleep(PAUSE).await;
    }
    listening.await??;
    Ok(milliseconds)
}

/// Zero where the handler was faster than the reply to the commit.
pub(crate) fn since(committed: Instant, started: Instant) -> f64 {
    started.saturating_duration_since(committed).as_secs_f64() * 1_000.0
}

pub(crate) async fn next<T>(receiver: &mut UnboundedReceiver<T>) -> Result<T, Error> {
    let received = tokio::time::timeout(Duration::from_secs(30), receiver.recv()).await?;
    received.ok_or_else(|| "the worker has ended".into())
}

/// Until it listens, a worker only polls.
async fn wait_for_listener(database: &TestDatabase) -> Result<(), Error> {
    let listens = "exists (select from pg_stat_activity where datname = current_database()
         and query ilike 'listen%' and state = 'idle')";
    Ok(database.wait_until(listens).await?)
}

/// Where the handler says when it was started, and with what number.
struct Starts(UnboundedSender<Start>);

/// The beginning of a handler.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    pub(crate) number: u64,
    pub(crate) at: Instant,
}

impl Start {
    pub(crate) fn now(payload: &[u8]) -> Self {
        let at = Instant::now();
        Self {
            number: number(payload),
            at,
        }
    }
}

/// The number at the beginning of a payload.
fn number(payload: &[u8]) -> u64 {
    payload
        .first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// A payload of the usual size that begins with a number.
pub(crate) fn numbered(number: u64) -> Vec<u8> {
    let mut payload = payload();
    if let Some(start) = payload.first_chunk_mut() {
        *start = number.to_be_bytes();
    }
    payload
}

/// Says when it started.
struct Timed;

impl Handler for Timed {
    fn definition() -> Definition {
        Noop::definition()
    }

    fn requires(requirements: &mut Requirements) {
        requirements.data::<Starts>();
    }

    fn call(context: Context) -> BoxFuture<'static, Outcome> {
        if let Some(starts) = context.data().find::<Starts>() {
            // The measuring side is gone only if it failed.
            let _ = starts.0.send(Start::now(&context.message().payload));
        }
        Box::pin(std::future::ready(Outcome::Done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_keeps_its_number_and_its_size() {
        let payload = numbered(70_000);
        assert_eq!(payload.len(), 100);
        assert_eq!(number(&payload), 70_000);
        assert_eq!(number(b"short"), 0);
    }
}
