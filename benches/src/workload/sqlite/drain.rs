//! Drain on SQLite: a worker in its default configuration takes a full queue down to nothing, next
//! to the bare claim and settle on one connection.

use outbox::sqlite::SqliteStorage;
use serde_json::json;

use crate::arguments::Arguments;
use crate::bare::BATCH;
use crate::report::Report;
use crate::round::{Round, SIDES, Side, alternate, tell};
use crate::sqlite::{bare, filled, left};
use crate::workload::{Noop, drain};
use crate::{Error, ours};

pub(crate) async fn run(arguments: &Arguments, report: &Report) -> Result<(), Error> {
    let messages = arguments.messages.unwrap_or(20_000);
    report.note(&format!(
        "sqlite-drain: {messages} no-op messages of 100 bytes, one queue; a default worker, from the start of its \
         run to its last settle, and a bare claim({BATCH}) + settle loop on one connection, each statement its \
         own transaction; connecting is not counted"
    ));
    let run = async |side| match side {
        Side::Ours => with_worker(messages).await,
        Side::Bare => bare::drain(messages).await,
    };
    let [ours, bare] = alternate(report, arguments.rounds(), SIDES, run).await?;
    let ratio = tell(report, "sqlite-drain", &ours, &bare, json!({}));
    drain::assert(arguments, ratio)
}

async fn with_worker(messages: usize) -> Result<Round, Error> {
    let file = filled(messages).await?;
    let storage = SqliteStorage::connect(&file.url()).await?;
    let worker = outbox::tokio::worker(storage).register::<Noop>();
    let round = ours::settle(worker, messages).await?;
    ours::check(&round, messages, left(&file).await?)?;
    Ok(round)
}
