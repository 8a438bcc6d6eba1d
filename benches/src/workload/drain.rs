//! Drain: a worker in its default configuration takes a full queue down to nothing, next to the
//! bare claim and settle on one connection.

use serde_json::json;

use crate::arguments::Arguments;
use crate::report::Report;
use crate::round::{SIDES, Side, alternate, tell};
use crate::server::Bench;
use crate::state::State;
use crate::workload::Noop;
use crate::{Error, bare, ours};

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
    let state = State::due(messages);
    let run = async |side| match side {
        Side::Ours => {
            ours::drain(bench, &state, messages, |worker| worker.register::<Noop>()).await
        }
        Side::Bare => bare::round(bench, &state, messages, bare::PLAIN).await,
    };
    let [ours, bare] = alternate(report, arguments.rounds(), SIDES, run).await?;
    let ratio = tell(report, "drain", &ours, &bare, json!({}));
    assert(arguments, ratio)
}

/// Fails if the ratio is below what the user asked for.
pub(crate) fn assert(arguments: &Arguments, ratio: f64) -> Result<(), Error> {
    match arguments.assert_ratio {
        Some(least) if ratio < least => {
            Err(format!("the drain ratio is {ratio:.2}, less than {least}").into())
        }
        Some(_) | None => Ok(()),
    }
}
