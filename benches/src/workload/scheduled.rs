//! Scheduled: how much later than due the handlers of messages start that were enqueued for later;
//! next to a hand-written loop that sleeps until the next message is due.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outbox::Draft;
use outbox::postgres::PgOutbox;
use outbox_testkit::postgres::TestDatabase;
use sqlx::{Connection, PgConnection};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use uuid::Uuid;

use crate::arguments::Arguments;
use crate::report::Report;
use crate::round::Side;
use crate::server::{Bench, KIND, QUEUE, connect};
use crate::workload::latency::{Start, beside_worker, compare, next, numbered};
use crate::{Error, bare};

/// Until the first message is due: by then everybody is asleep.
const FIRST: Duration = Duration::from_millis(1_500);
/// Between two due times; no multiple of a millisecond, so that they fall anywhere between ticks.
const STEP: Duration = Duration::from_micros(7_300);

pub(crate) async fn run(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
) -> Result<(), Error> {
    let messages = arguments.messages.unwrap_or(300);
    let each = messages.div_ceil(arguments.rounds());
    report.note(&format!(
        "scheduled: {messages} messages due one by one every {:.1} ms, from the time each is due to the start of \
         its handler, by the clocks of the server and of this machine; bare: claim, or sleep until the next is due",
        STEP.as_secs_f64() * 1_000.0
    ));
    let run = async |side, database: &TestDatabase| match side {
        Side::Ours => with_worker(database, each).await,
        Side::Bare => with_loop(database, each).await,
    };
    compare(bench, arguments, report, "scheduled", run).await
}

/// Milliseconds for each message.
async fn with_worker(database: &TestDatabase, messages: usize) -> Result<Vec<f64>, Error> {
    let as_it_is = |worker| worker;
    beside_worker(database, as_it_is, async |mut started| {
        let due = schedule(database, messages).await?;
        lateness(&due, &mut started).await
    })
    .await
}

async fn with_loop(database: &TestDatabase, messages: usize) -> Result<Vec<f64>, Error> {
    let due = schedule(database, messages).await?;
    let (starts, mut started) = unbounded_channel();
    let connection = connect(database).await?;
    let looping = tokio::spawn(work(connection, starts));
    let measured = lateness(&due, &mut started).await;
    looping.await??;
    measured
}

async fn work(mut connection: PgConnection, starts: UnboundedSender<Start>) -> Result<(), Error> {
    loop {
        let token = Uuid::new_v4();
        let leased = bare::claim(&mut connection, QUEUE, token, bare::BATCH).await?;
        for message in &leased {
            // The measuring side is gone only if it failed.
            let _ = starts.send(Start::now(&message.payload));
        }
        if !leased.is_empty() {
            let ids: Vec<i64> = leased.iter().map(|message| message.id).collect();
            bare::settle(&mut connection, token, &ids, bare::Settle::ById).await?;
            continue;
        }
        let sql = "select extract(epoch from min(next_attempt_at) - clock_timestamp())::float8
             from outbox.message where queue = $1 and priority = 0 and acquired_token is null";
        let next: Option<f64> = sqlx::query_scalar(sql)
            .bind(QUEUE)
            .fetch_one(&mut connection)
            .await?;
        let Some(seconds) = next else {
            connection.close().await?;
            return Ok(());
        };
        tokio::time::sleep(Duration::from_secs_f64(seconds.max(0.0))).await;
    }
}

/// Enqueues, and returns when each is due, in seconds since 1970.
async fn schedule(database: &TestDatabase, messages: usize) -> Result<Vec<f64>, Error> {
    let mut connection = connect(database).await?;
    let drafts = (0..).zip(0..messages).map(|(number, _)| {
        let draft = Draft::bytes(QUEUE, KIND, numbered(u64::from(number)));
        draft.after(FIRST + STEP * number)
    });
    PgOutbox::new()
        .enqueue_many(&mut connection, drafts)
        .await?;
    let sql = "select extract(epoch from next_attempt_at)::float8 from outbox.message order by id";
    let due = sqlx::query_scalar(sql).fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(due)
}

async fn lateness(due: &[f64], started: &mut UnboundedReceiver<Start>) -> Result<Vec<f64>, Error> {
    let mut milliseconds = Vec::new();
    while milliseconds.len() < due.len() {
        let start = next(started).await?;
        // What has passed since then is taken off by the clock that measured it.
        let at = SystemTime::now() - start.at.elapsed();
        let due = due.get(usize::try_from(start.number)?);
        let due = due.ok_or("a message was started that nobody wrote")?;
        milliseconds.push((at.duration_since(UNIX_EPOCH)?.as_secs_f64() - due) * 1_000.0);
    }
    Ok(milliseconds)
}
