//! Enqueue on SQLite: one by one in a transaction each, and many at once; next to a bare insert of
//! the same rows.

use std::time::Instant;

use outbox::Draft;
use outbox::sqlite::SqliteOutbox;
use serde_json::json;
use sqlx::{Connection, SqliteConnection};

use crate::Error;
use crate::arguments::Arguments;
use crate::report::Report;
use crate::round::{Round, SIDES, Side, alternate, tell};
use crate::server::{draft, payload};
use crate::sqlite::{Commits, bare, connect, file, left};

const SINGLE: usize = 2_000;
const BULK: usize = 10_000;

/// How many go in one transaction.
#[derive(Clone, Copy)]
enum Shape {
    One,
    All,
}

pub(crate) async fn run(arguments: &Arguments, report: &Report) -> Result<(), Error> {
    let single = arguments.messages.unwrap_or(SINGLE);
    report.note(&format!(
        "sqlite-enqueue: {single} messages of 100 bytes one by one, each its own transaction (autocommit); {BULK} \
         in one transaction; wake-ups cost a producer nothing, so there is no case without"
    ));
    let comparisons = [
        ("sqlite-enqueue", Shape::One, single),
        ("sqlite-enqueue_many", Shape::All, BULK),
    ];
    for (name, shape, messages) in comparisons {
        report.note(&format!("{name}:"));
        let run = async |side| round(side, shape, messages).await;
        let [ours, bare] = alternate(report, arguments.rounds(), SIDES, run).await?;
        tell(report, name, &ours, &bare, json!({}));
    }
    Ok(())
}

async fn round(side: Side, shape: Shape, messages: usize) -> Result<Round, Error> {
    let file = file().await?;
    let mut connection = connect(&file, Commits::Durable).await?;
    // The first statement of a connection is prepared; that is connecting, and not counted.
    write(&mut connection, side, shape, 1).await?;
    let elapsed = write(&mut connection, side, shape, messages).await?;
    connection.close().await?;
    let written = left(&file).await?;
    if written != messages + 1 {
        return Err(format!("{written} messages were written, not {messages} and one").into());
    }
    Ok(Round {
        rate: messages as f64 / elapsed,
        messages,
        ..Round::default()
    })
}

/// Writes, and returns the seconds it took.
async fn write(
    connection: &mut SqliteConnection,
    side: Side,
    shape: Shape,
    messages: usize,
) -> Result<f64, Error> {
    let outbox = SqliteOutbox::new();
    let drafts: Vec<Draft> = (0..messages).map(|_| draft()).collect();
    let payloads: Vec<Vec<u8>> = (0..messages).map(|_| payload()).collect();
    let started = Instant::now();
    match (side, shape) {
        (Side::Ours, Shape::One) => {
            for draft in drafts {
                outbox.enqueue(connection, draft).await?;
            }
        }
        (Side::Bare, Shape::One) => {
            for payload in payloads {
                bare::insert(connection, payload).await?;
            }
        }
        (Side::Ours, Shape::All) => {
            let mut transaction = connection.begin_with("begin immediate").await?;
            outbox.enqueue_many(&mut transaction, drafts).await?;
            transaction.commit().await?;
        }
        (Side::Bare, Shape::All) => {
            let mut transaction = connection.begin_with("begin immediate").await?;
            bare::insert_many(&mut transaction, payloads).await?;
            transaction.commit().await?;
        }
    }
    Ok(started.elapsed().as_secs_f64())
}
