//! What else is in the outbox: the first messages of a long backlog, or messages among many that
//! are due later, leased by others or dead; next to the bare loop in the same state and to both in
//! an outbox with nothing else.

use serde_json::json;

use crate::arguments::Arguments;
use crate::report::Report;
use crate::round::{Round, Side, alternate, rates, ratios, tell};
use crate::server::Bench;
use crate::state::State;
use crate::workload::Noop;
use crate::{Error, bare, ours};

/// How much the cost of a message may grow.
const MOST_GROWTH: f64 = 1.2;

/// What there is much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Much {
    Backlog,
    Future,
    Leased,
    Dead,
}

pub(crate) async fn run(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
    much: Much,
) -> Result<(), Error> {
    let million = arguments.scaled(1_000_000);
    let due = State::due(messages(arguments));
    let leased = |count| State {
        leased: arguments.scaled(count),
        ..due
    };
    let (future, dead) = (million, million);
    let states = match much {
        Much::Backlog => vec![("backlog", State::due(million.max(due.due)))],
        Much::Future => vec![("future", State { future, ..due })],
        Much::Leased => vec![
            ("leased 10k", leased(10_000)),
            ("leased 100k", leased(100_000)),
        ],
        Much::Dead => vec![("dead", State { dead, ..due })],
    };
    for (name, state) in states {
        compare(bench, arguments, report, name, state).await?;
    }
    Ok(())
}

fn messages(arguments: &Arguments) -> usize {
    arguments.messages.unwrap_or(20_000)
}

async fn compare(
    bench: &Bench,
    arguments: &Arguments,
    report: &Report,
    name: &str,
    full: State,
) -> Result<(), Error> {
    let messages = messages(arguments);
    let State {
        due,
        future,
        leased,
        dead,
        ..
    } = full;
    report.note(&format!(
        "{name}: the first {messages} of {due} due messages, next to {future} that are due later, {leased} \
         leased by others and {dead} dead letters; empty: {messages} due messages and nothing else"
    ));
    let empty = State::due(messages);
    let sides = [
        ("ours", (Side::Ours, full)),
        ("bare", (Side::Bare, full)),
        ("ours, empty", (Side::Ours, empty)),
        ("bare, empty", (Side::Bare, empty)),
    ];
    let run = async |(side, state)| match side {
        Side::Ours => {
            ours::drain(bench, &state, messages, |worker| worker.register::<Noop>()).await
        }
        Side::Bare => bare::round(bench, &state, messages, bare::PLAIN).await,
    };
    let [ours, bare, ours_empty, bare_empty] =
        alternate(report, arguments.rounds(), sides, run).await?;
    // How much slower: times and not rates, as the bound is one of cost.
    let slower = ratios(&ours_empty, &ours);
    let bare_slower = ratios(&bare_empty, &bare);
    let buffers = claim_growth(&ours, &ours_empty);
    let more = json!({
        "due": due,
        "future": future,
        "leased": leased,
        "dead": dead,
        "ours_empty": rates(&ours_empty).median,
        "bare_empty": rates(&bare_empty).median,
        "slower": slower.json(),
        "bare_slower": bare_slower.json(),
        "claim_buffers_growth": buffers,
        "bare_claim_buffers_growth": claim_growth(&bare, &bare_empty),
    });
    tell(report, name, &ours, &bare, more);
    let verdict = |growth: f64| {
        let word = if growth <= MOST_GROWTH {
            "within"
        } else {
            "ABOVE"
        };
        format!("{growth:.2}, {word} {MOST_GROWTH}")
    };
    report.note(&format!(
        "  {name}, against the empty outbox: time x {} (min {:.2}, max {:.2}); claim buffers x {}; bare: time x {}",
        verdict(slower.median),
        slower.min,
        slower.max,
        buffers.map_or_else(|| "?".to_owned(), verdict),
        bare_slower.line(2),
    ));
    Ok(())
}

/// Buffers of claims for each message, in those of the same in an empty outbox.
fn claim_growth(full: &[Round], empty: &[Round]) -> Option<f64> {
    let buffers = |rounds: &[Round]| rounds.last()?.cost.as_ref()?.claim_buffers();
    Some(buffers(full)? / buffers(empty)?)
}
