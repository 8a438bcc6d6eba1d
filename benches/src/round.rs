//! Rounds of ours and of the bare statements, alternating, and how they are told.

use serde_json::{Map, Value, json};

use crate::Error;
use crate::measure::{Cost, Spread};
use crate::report::Report;

/// What one round achieved, and what that cost.
#[derive(Default)]
pub(crate) struct Round {
    /// Messages per second.
    pub(crate) rate: f64,
    /// The messages that the cost is of: at least those that were asked for.
    pub(crate) messages: usize,
    /// `None` where nobody counts, as with SQLite.
    pub(crate) cost: Option<Cost>,
    /// Of the worker.
    pub(crate) exchanges: Option<u64>,
    /// What the worker says of itself.
    pub(crate) note: Option<String>,
    /// Of a run that goes on: what happened in each stretch of it.
    pub(crate) windows: Vec<Window>,
}

/// A stretch of a run.
pub(crate) struct Window {
    /// Messages per second.
    pub(crate) rate: f64,
    pub(crate) heap_bytes: i64,
    pub(crate) index_bytes: i64,
}

/// Who works.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    Ours,
    Bare,
}

/// Both, with the names they are told under.
pub(crate) const SIDES: [(&str, Side); 2] = [("ours", Side::Ours), ("bare", Side::Bare)];

/// Runs every side once in each round, so that what disturbs the machine disturbs all of them, and
/// returns the rounds of each side.
pub(crate) async fn alternate<S: Copy, const N: usize>(
    report: &Report,
    rounds: usize,
    sides: [(&str, S); N],
    run: impl AsyncFn(S) -> Result<Round, Error>,
) -> Result<[Vec<Round>; N], Error> {
    let mut all = [const { Vec::new() }; N];
    for number in 1..=rounds {
        let mut line = format!("  round {number}:");
        for ((name, side), of_side) in sides.iter().zip(&mut all) {
            let round = run(*side).await?;
            line.push_str(&format!("  {name} {:>7.0}/s", round.rate));
            of_side.push(round);
        }
        report.note(&line);
    }
    Ok(all)
}

/// The rates of some rounds.
pub(crate) fn rates(rounds: &[Round]) -> Spread {
    let rates: Vec<f64> = rounds.iter().map(|round| round.rate).collect();
    Spread::of(&rates)
}

/// The rates of `ours` in those of `others`, round by round.
pub(crate) fn ratios(ours: &[Round], others: &[Round]) -> Spread {
    let pairs = ours.iter().zip(others);
    let ratios: Vec<f64> = pairs.map(|(ours, other)| ours.rate / other.rate).collect();
    Spread::of(&ratios)
}

/// Prints the summary of a workload and returns the middle ratio. `more` is added to the result.
pub(crate) fn tell(
    report: &Report,
    name: &str,
    ours: &[Round],
    bare: &[Round],
    more: Value,
) -> f64 {
    let ratio = ratios(ours, bare);
    let mut fields = Map::new();
    fields.insert("workload".into(), name.into());
    fields.insert("unit".into(), "messages/s".into());
    fields.insert("rounds".into(), ours.len().into());
    for (whose, rounds) in [("ours", ours), ("bare", bare)] {
        let rates = rates(rounds);
        report.note(&format!("  {name}, {whose}: {}/s", rates.line(0)));
        fields.insert(whose.into(), rates.median.into());
        fields.insert(format!("{whose}_spread"), rates.json());
        let Some(shown) = least_written(rounds) else {
            continue;
        };
        for line in cost_lines(shown).iter().chain(&shown.note) {
            report.note(&format!("    {line}"));
        }
        fields.insert(format!("{whose}_messages"), shown.messages.into());
        let cost = shown.cost.as_ref();
        let cost = cost.map(|cost| cost.per_message(shown.messages));
        fields.insert(format!("{whose}_per_message"), cost.into());
        if let Some(exchanges) = shown.exchanges {
            fields.insert("exchanges".into(), exchanges.into());
        }
        if !shown.windows.is_empty() {
            let windows = shown.windows.iter().map(Window::json).collect();
            fields.insert(format!("{whose}_windows"), Value::Array(windows));
        }
    }
    report.note(&format!("  {name}, ratio: {}", ratio.line(2)));
    fields.insert("ratio".into(), ratio.median.into());
    fields.insert("ratio_spread".into(), ratio.json());
    if let Value::Object(more) = more {
        fields.extend(more);
    }
    report.result(Value::Object(fields));
    ratio.median
}

/// The round that wrote the least: the server's log is of the whole server, and a checkpoint in the middle
/// of a round has it log whole pages.
fn least_written(rounds: &[Round]) -> Option<&Round> {
    let written = |round: &Round| {
        let cost = round.cost.as_ref();
        cost.map_or(0.0, |cost| cost.wal_bytes() / round.messages as f64)
    };
    rounds
        .iter()
        .min_by(|one, other| written(one).total_cmp(&written(other)))
}

fn cost_lines(round: &Round) -> Vec<String> {
    let Some(cost) = &round.cost else {
        return Vec::new();
    };
    let mut lines = vec![cost.line(round.messages)];
    lines.extend(cost.statement_lines());
    lines
}

impl Window {
    fn json(&self) -> Value {
        json!({
            "rate": self.rate,
            "heap_bytes": self.heap_bytes,
            "index_bytes": self.index_bytes,
        })
    }
}
