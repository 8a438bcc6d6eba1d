//! Latency: from the return of a commit to the start of the handler, on an idle worker; next to a
//! hand-written listener that claims one message when it is notified.

use std::time::{Duration, Instant};

use outbox::postgres::{PgOutbox, PgStorage};
use outbox::{BoxFuture, Context, Definition, Event, Handler, Outcome, Requirements};
use outbox_testkit::postgres::TestDatabase;
use serde_json::{Value, json};
use sqlx::Connection;
use sqlx::postgres::PgListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use uuid::Uuid;

use crate::arguments::Arguments;
use crate::measure::percentile;
use crate::report::Report;
use crate::server::{Bench, connect, draft, payload};
use crate::workload::Noop;
use crate::{Error, bare};

/// Between two messages, so that each finds everybody asleep.
const PAUSE: Duration = Duration::from_millis(5);
const CHANNEL: &str = "outbox_bench";

pub(crate) async fn run(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
) -> Result<(), Error> {
    let messages = arguments.messages.unwrap_or(400);
    let each = messages.div_ceil(arguments.rounds);
    report.note(&format!(
        "latency: {messages} messages, one at a time, from the return of the commit to the start of the handler; \
         bare: insert, notify, listen, claim of one"
    ));
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        ours.extend(with_worker(bench, each).await?);
        bare.extend(with_listener(bench, each).await?);
    }
    ours.sort_by(f64::total_cmp);
    bare.sort_by(f64::total_cmp);
    let mut fields = json!({ "workload": "latency", "unit": "ms", "messages": ours.len() });
    for percent in [50.0, 95.0, 99.0] {
        let (ours, bare) = (percentile(&ours, percent), percentile(&bare, percent));
        report.note(&format!(
            "  p{percent}: ours {ours:.3} ms   bare {bare:.3} ms   ratio {:.2}",
            ours / bare
        ));
        fields[format!("p{percent}")] = json!({ "ours": ours, "bare": bare, "ratio": ours / bare });
    }
    let median = fields["p50"].clone();
    for name in ["ours", "bare", "ratio"] {
        fields[name] = median.get(name).cloned().unwrap_or(Value::Null);
    }
    report.result(fields);
    Ok(())
}

/// Milliseconds for each message.
async fn with_worker(bench: &Bench, messages: usize) -> Result<Vec<f64>, Error> {
    let database = bench.database().await?;
    let storage = PgStorage::connect(&database.url()).await?;
    let (starts, mut started) = unbounded_channel();
    let (settles, mut settled) = unbounded_channel();
    let worker = outbox::tokio::worker(storage)
        .data(Starts(starts))
        .register::<Timed>()
        .observe(move |event| {
            if let Event::Settled { .. } = event {
                // Nobody listens once the last message is through.
                let _ = settles.send(());
            }
        })
        .prepare()?;
    let handle = worker.handle();
    let running = tokio::spawn(worker.run_until(std::future::pending()));
    let measured = async {
        let outbox = PgOutbox::new();
        let mut connection = connect(&database).await?;
        wait_for_listener(&database).await?;
        let mut milliseconds = Vec::with_capacity(messages);
        for _ in 0..messages {
            let mut transaction = connection.begin().await?;
            outbox.enqueue(&mut transaction, draft()).await?;
            transaction.commit().await?;
            let committed = Instant::now();
            milliseconds.push(since(committed, next(&mut started).await?));
            next(&mut settled).await?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok::<_, Error>(milliseconds)
    }
    .await;
    handle.shutdown();
    running.await??;
    measured
}

async fn with_listener(bench: &Bench, messages: usize) -> Result<Vec<f64>, Error> {
    let database = bench.database().await?;
    let mut listener = PgListener::connect(&database.url()).await?;
    listener.listen(CHANNEL).await?;
    let mut claimer = connect(&database).await?;
    let (starts, mut started) = unbounded_channel();
    let listening = tokio::spawn(async move {
        for _ in 0..messages {
            listener.recv().await?;
            let token = Uuid::new_v4();
            let leased = bare::claim(&mut claimer, token, 1).await?;
            // The measuring side is gone only if it failed.
            let _ = starts.send(Instant::now());
            let ids: Vec<i64> = leased.iter().map(|message| message.id).collect();
            if bare::settle(&mut claimer, token, &ids).await? != 1 {
                return Err("a notification came without its message".into());
            }
        }
        Ok::<_, Error>(())
    });
    let mut connection = connect(&database).await?;
    let mut milliseconds = Vec::with_capacity(messages);
    for _ in 0..messages {
        let mut transaction = connection.begin().await?;
        bare::insert(&mut transaction, &payload()).await?;
        sqlx::query("select pg_notify($1, '')")
            .bind(CHANNEL)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        let committed = Instant::now();
        milliseconds.push(since(committed, next(&mut started).await?));
        tokio::time::sleep(PAUSE).await;
    }
    listening.await??;
    Ok(milliseconds)
}

/// Zero where the handler was faster than the reply to the commit.
fn since(committed: Instant, started: Instant) -> f64 {
    started.saturating_duration_since(committed).as_secs_f64() * 1_000.0
}

async fn next<T>(receiver: &mut UnboundedReceiver<T>) -> Result<T, Error> {
    let received = tokio::time::timeout(Duration::from_secs(30), receiver.recv()).await?;
    received.ok_or_else(|| "the worker has ended".into())
}

/// Until it listens, a worker only polls.
async fn wait_for_listener(database: &TestDatabase) -> Result<(), Error> {
    let listens = "exists (select from pg_stat_activity where datname = current_database()
         and query ilike 'listen%' and state = 'idle')";
    Ok(database.wait_until(listens).await?)
}

/// Where the handler says that it was started.
struct Starts(UnboundedSender<Instant>);

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
            let _ = starts.0.send(Instant::now());
        }
        Box::pin(std::future::ready(Outcome::Done))
    }
}
