//! Tuned: a worker with many slots and much prefetch, next to the bare loop with batches of 500 on
//! two connections.

use serde_json::json;

use crate::arguments::Arguments;
use crate::report::Report;
use crate::round::{SIDES, Side, alternate, tell};
use crate::server::Bench;
use crate::state::State;
use crate::workload::Noop;
use crate::{Error, bare, ours};

const CONCURRENCY: usize = 500;
const PREFETCH: usize = 4_000;

const BARE: bare::Shape = bare::Shape {
    batch: 500,
    connections: 2,
    ..bare::PLAIN
};

pub(crate) async fn run(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
) -> Result<(), Error> {
    let messages = arguments.messages.unwrap_or(100_000);
    report.note(&format!(
        "tuned: {messages} no-op messages; a worker with concurrency({CONCURRENCY}) and prefetch({PREFETCH}), \
         and bare claim({}) + settle loops on {} connections",
        BARE.batch, BARE.connections
    ));
    let state = State::due(messages);
    let run = async |side| match side {
        Side::Ours => {
            ours::drain(bench, &state, messages, |worker| {
                let worker = worker.concurrency(CONCURRENCY).prefetch(PREFETCH);
                worker.register::<Noop>()
            })
            .await
        }
        Side::Bare => bare::round(bench, &state, messages, BARE).await,
    };
    let [ours, bare] = alternate(report, arguments.rounds(), SIDES, run).await?;
    let more = json!({ "concurrency": CONCURRENCY, "prefetch": PREFETCH });
    tell(report, "tuned", &ours, &bare, more);
    Ok(())
}
