//! Enqueue: one by one in a transaction each, with and without wake-ups, and many at once; next to
//! a bare insert of the same rows.

use std::time::Instant;

use outbox::Draft;
use outbox::postgres::{PgOutbox, WakeUps};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::arguments::Arguments;
use crate::report::Report;
use crate::round::{Round, alternate, tell};
use crate::server::{Bench, connect, draft, payload};
use crate::{Error, bare};

const SINGLE: usize = 2_000;
const BULK: usize = 10_000;

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
enum Writer {
    One(WakeUps),
    BareOne,
    Many(WakeUps),
    BareMany,
}

pub(crate) async fn run(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
) -> Result<(), Error> {
    let single = arguments.messages.unwrap_or(SINGLE);
    report.note(&format!(
        "enqueue: {single} messages of 100 bytes one by one, each its own transaction (autocommit); \
         {BULK} in one transaction; nobody listens"
    ));
    let comparisons = [
        (
            "enqueue",
            Writer::One(WakeUps::InTransaction),
            Writer::BareOne,
            single,
        ),
        (
            "enqueue without wake-ups",
            Writer::One(WakeUps::Off),
            Writer::BareOne,
            single,
        ),
        (
            "enqueue_many",
            Writer::Many(WakeUps::InTransaction),
            Writer::BareMany,
            BULK,
        ),
        (
            "enqueue_many without wake-ups",
            Writer::Many(WakeUps::Off),
            Writer::BareMany,
            BULK,
        ),
    ];
    for (name, writer, bare, messages) in comparisons {
        let sides = [("ours", writer), ("bare", bare)];
        let run = async |writer| round(bench, writer, messages).await;
        report.note(&format!("{name}:"));
        let [ours, bare] = alternate(report, arguments.rounds(), sides, run).await?;
        tell(report, name, &ours, &bare, json!({}));
    }
    Ok(())
}

async fn round(bench: &Bench, writer: Writer, messages: usize) -> Result<Round, Error> {
    let database = bench.database().await?;
    let mut connection = connect(&database).await?;
    // The first statement of a connection is prepared; that is connecting, and not counted.
    write(&mut connection, writer, 1).await?;
    let count = bench.meter.start(&database).await?;
    let elapsed = write(&mut connection, writer, messages).await?;
    connection.close().await?;
    let cost = count.finish(&database).await?;
    let written = database
        .count("select count(*) from outbox.message")
        .await?;
    if usize::try_from(written)? != messages + 1 {
        return Err(format!("{written} messages were written, not {messages} and one").into());
    }
    Ok(Round {
        rate: messages as f64 / elapsed,
        messages,
        cost: Some(cost),
        ..Round::default()
    })
}

/// Writes, and returns the seconds it took.
async fn write(
    connection: &mut PgConnection,
    writer: Writer,
    messages: usize,
) -> Result<f64, Error> {
    let producer = |wake_ups| PgOutbox::new().wake_ups(wake_ups);
    match writer {
        Writer::One(wake_ups) => {
            let outbox = producer(wake_ups);
            let started = Instant::now();
            for _ in 0..messages {
                outbox.enqueue(connection, draft()).await?;
            }
            Ok(started.elapsed().as_secs_f64())
        }
        Writer::BareOne => {
            let started = Instant::now();
            for _ in 0..messages {
                bare::insert(connection, &payload()).await?;
            }
            Ok(started.elapsed().as_secs_f64())
        }
        Writer::Many(wake_ups) => {
            let outbox = producer(wake_ups);
            let drafts: Vec<Draft> = (0..messages).map(|_| draft()).collect();
            let started = Instant::now();
            let mut transaction = connection.begin().await?;
            outbox.enqueue_many(&mut transaction, drafts).await?;
            transaction.commit().await?;
            Ok(started.elapsed().as_secs_f64())
        }
        Writer::BareMany => {
            let payloads: Vec<Vec<u8>> = (0..messages).map(|_| payload()).collect();
            let started = Instant::now();
            let mut transaction = connection.begin().await?;
            bare::insert_many(&mut transaction, &payloads).await?;
            transaction.commit().await?;
            Ok(started.elapsed().as_secs_f64())
        }
    }
}
