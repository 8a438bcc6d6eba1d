//! Latency on SQLite: from the return of a commit to the start of the handler, on an idle worker;
//! next to a hand-written loop that asks for `pragma data_version` as often as the worker, and claims
//! one message when it has changed. SQLite tells nobody about a commit of another connection, so that
//! is the floor: half an interval, and a claim.

use std::time::{Duration, Instant};

use outbox::Event;
use outbox::sqlite::{SqliteOutbox, SqliteStorage};
use outbox_testkit::sqlite::TestFile;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::Error;
use crate::arguments::Arguments;
use crate::report::Report;
use crate::round::Side;
use crate::server::{draft, payload};
use crate::sqlite::{Commits, bare, connect, file};
use crate::workload::latency::{Start, Times, alternate, beside, next, since};

/// How often both sides look: the default of the storage.
const LOOK: Duration = Duration::from_millis(20);
/// Between two messages, at least: by then everybody is asleep.
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) async fn run(arguments: &Arguments, report: &Report) -> Result<(), Error> {
    let messages = arguments.messages.unwrap_or(400);
    let each = messages.div_ceil(arguments.rounds());
    let interval = LOOK.as_millis();
    report.note(&format!(
        "sqlite-latency: {messages} messages, one at a time, from the return of the commit to the start of the \
         handler; bare: insert, `pragma data_version` every {interval} ms as the worker does, claim of one: SQLite \
         tells nobody of a commit, so the floor is half of {interval} ms and a claim"
    ));
    let run = async |side| {
        let file = file().await?;
        let milliseconds = match side {
            Side::Ours => with_worker(&file, each).await?,
            Side::Bare => with_looks(&file, each).await?,
        };
        Ok(Times {
            milliseconds,
            cost: None,
        })
    };
    alternate(arguments, report, "sqlite-latency", run).await
}

/// Pauses that end anywhere between two looks, evenly: without that each message would come at the
/// same time after one. Over two intervals, since a timer may take a little longer than one.
fn pauses() -> impl Iterator<Item = Duration> {
    // The golden section: each of its multiples falls into the largest gap that those before it left.
    let parts = (1_u32..).map(|number| (f64::from(number) * 0.618_034).fract());
    parts.map(|part| PAUSE + LOOK.mul_f64(2.0 * part))
}

/// Milliseconds for each message.
async fn with_worker(file: &TestFile, messages: usize) -> Result<Vec<f64>, Error> {
    let storage = SqliteStorage::connect(&file.url()).await?;
    let (settles, mut settled) = unbounded_channel();
    let worker = outbox::tokio::worker(storage).observe(move |event| {
        if let Event::Settled { .. } = event {
            // Nobody listens once the last message is through.
            let _ = settles.send(());
        }
    });
    let mut connection = connect(file, Commits::Durable).await?;
    beside(worker, async |mut started| {
        let outbox = SqliteOutbox::new();
        // The first one says that the worker is there, and is not counted.
        outbox.enqueue(&mut connection, draft()).await?;
        next(&mut started).await?;
        next(&mut settled).await?;
        let mut milliseconds = Vec::with_capacity(messages);
        for pause in pauses().take(messages) {
            tokio::time::sleep(pause).await;
            let mut transaction = connection.begin_with("begin immediate").await?;
            outbox.enqueue(&mut transaction, draft()).await?;
            transaction.commit().await?;
            let committed = Instant::now();
            milliseconds.push(since(committed, next(&mut started).await?.at));
            next(&mut settled).await?;
        }
        Ok(milliseconds)
    })
    .await
}

async fn with_looks(file: &TestFile, messages: usize) -> Result<Vec<f64>, Error> {
    let watch = connect(file, Commits::Relaxed).await?;
    let claimer = connect(file, Commits::Relaxed).await?;
    let (starts, mut started) = unbounded_channel();
    let looking = tokio::spawn(look(watch, claimer, starts, messages));
    let mut connection = connect(file, Commits::Durable).await?;
    let mut milliseconds = Vec::with_capacity(messages);
    for pause in pauses().take(messages) {
        tokio::time::sleep(pause).await;
        let mut transaction = connection.begin_with("begin immediate").await?;
        bare::insert(&mut transaction, payload()).await?;
        transaction.commit().await?;
        let committed = Instant::now();
        milliseconds.push(since(committed, next(&mut started).await?.at));
    }
    looking.await??;
    Ok(milliseconds)
}

/// Claims when somebody has committed, until so many messages are settled.
async fn look(
    mut watch: SqliteConnection,
    mut claimer: SqliteConnection,
    starts: UnboundedSender<Start>,
    messages: usize,
) -> Result<(), Error> {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut left = messages;
    let mut seen = None;
    while left > 0 {
        ticks.tick().await;
        let version = sqlx::query_scalar("pragma data_version");
        let version: i64 = version.fetch_one(&mut watch).await?;
        if seen.replace(version) != Some(version) {
            let token = Uuid::new_v4();
            let leased = bare::claim(&mut claimer, token, 1).await?;
            if !leased.is_empty() {
                // The measuring side is gone only if it failed.
                let _ = starts.send(Start::now(&[]));
                bare::settle(&mut claimer, token, &leased).await?;
                left -= leased.len();
            }
        }
    }
    Ok(())
}
