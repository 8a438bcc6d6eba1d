//! Relaxed: a full queue and a worker whose claims and settles do not wait for the server's disk,
//! next to the same worker as it is by default and to the bare statements, which both wait.

use outbox::postgres::{Durability, PgStorage};
use serde_json::json;

use crate::arguments::Arguments;
use crate::report::Report;
use crate::round::{Round, alternate, ratios, tell};
use crate::server::Bench;
use crate::state::State;
use crate::workload::Noop;
use crate::{Error, bare, ours};

#[derive(Clone, Copy)]
enum Who {
    Ours(Durability),
    Bare,
}

pub(crate) async fn run(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
) -> Result<(), Error> {
    let messages = arguments.messages.unwrap_or(100_000);
    report.note(&format!(
        "relaxed: {messages} no-op messages; a default worker with Durability::Relaxed, next to one with \
         Durability::Strict and to bare claim({}) + settle, strict as well",
        bare::BATCH
    ));
    let state = State::due(messages);
    let sides = [
        ("ours", Who::Ours(Durability::Relaxed)),
        ("bare", Who::Bare),
        ("strict", Who::Ours(Durability::Strict)),
    ];
    let run = async |who| -> Result<Round, Error> {
        match who {
            Who::Ours(durability) => {
                let options = PgStorage::options().durability(durability);
                let register = |worker: outbox::Worker| worker.register::<Noop>();
                ours::drain_with(bench, &state, messages, options, register).await
            }
            Who::Bare => bare::round(bench, &state, messages, bare::PLAIN).await,
        }
    };
    let [ours, bare, strict] = alternate(report, arguments.rounds(), sides, run).await?;
    let against_strict = ratios(&ours, &strict);
    let more = json!({ "against_strict": against_strict.json() });
    tell(report, "relaxed", &ours, &bare, more);
    let line = against_strict.line(2);
    report.note(&format!("  relaxed, against strict: {line}"));
    Ok(())
}
