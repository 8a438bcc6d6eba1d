//! What is printed: one table and how each row was set for people, or one JSON object per line.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what this module is for"
)]

use std::collections::BTreeMap;

use leg::Setting;
use serde_json::{Map, Value, json};

use crate::arguments::Arguments;
use crate::legs::Leg;

/// What is measured of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Column {
    Drain,
    Processes,
    User,
    System,
    One,
    Many,
    P50,
    P99,
    Twice,
}

impl Column {
    const ALL: [Self; 9] = [
        Self::Drain,
        Self::Processes,
        Self::User,
        Self::System,
        Self::One,
        Self::Many,
        Self::P50,
        Self::P99,
        Self::Twice,
    ];

    const fn title(self) -> &'static str {
        match self {
            Self::Drain => "drain/s",
            Self::Processes => "4 processes/s",
            Self::User => "user us/message",
            Self::System => "system us/message",
            Self::One => "enqueue one/s",
            Self::Many => "enqueue 10k/s",
            Self::P50 => "p50 ms",
            Self::P99 => "p99 ms",
            Self::Twice => "run twice",
        }
    }

    const fn key(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Processes => "processes",
            Self::User => "user_microseconds",
            Self::System => "system_microseconds",
            Self::One => "enqueue_one",
            Self::Many => "enqueue_many",
            Self::P50 => "p50_milliseconds",
            Self::P99 => "p99_milliseconds",
            Self::Twice => "run_twice",
        }
    }

    const fn decimals(self) -> usize {
        match self {
            Self::Drain | Self::Processes | Self::One | Self::Many | Self::Twice => 0,
            Self::User | Self::System => 1,
            Self::P50 | Self::P99 => 2,
        }
    }
}

/// Smallest, middle and largest of some rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    /// `None` of no values. Of an even number the middle one is the smaller of the two.
    fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            min: *sorted.first()?,
            median: *sorted.get((sorted.len() - 1) / 2)?,
            max: *sorted.last()?,
        })
    }

    fn text(self, decimals: usize) -> String {
        let Self { min, median, max } = self;
        format!("{median:.decimals$} ({min:.decimals$}-{max:.decimals$})")
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

/// A leg in one of its settings.
struct Row {
    peer: &'static str,
    version: String,
    fenced: String,
    setting: Setting,
    figures: BTreeMap<Column, Vec<f64>>,
}

impl Row {
    fn spread(&self, column: Column) -> Option<Spread> {
        Spread::of(self.figures.get(&column)?)
    }
}

/// The figures so far.
pub(crate) struct Table {
    json: bool,
    server: String,
    rows: Vec<Row>,
}

impl Table {
    /// An empty one, with a row for each setting.
    pub(crate) fn new(arguments: &Arguments, legs: &[Leg], server: &str) -> Self {
        let rows = legs.iter().flat_map(|leg| {
            leg.description.settings.iter().map(|setting| Row {
                peer: leg.name,
                version: leg.version(),
                fenced: leg.description.fenced.clone(),
                setting: setting.clone(),
                figures: BTreeMap::new(),
            })
        });
        Self {
            json: arguments.json,
            server: server.to_owned(),
            rows: rows.collect(),
        }
    }

    /// Adds a figure of one round.
    pub(crate) fn add(&mut self, leg: &Leg, setting: &Setting, column: Column, figure: f64) {
        let mut rows = self.rows.iter_mut();
        let of = |row: &&mut Row| row.peer == leg.name && row.setting.name == setting.name;
        if let Some(row) = rows.find(of) {
            row.figures.entry(column).or_default().push(figure);
        }
    }

    /// Tells what a round achieved, to whoever waits.
    pub(crate) fn note(&self, title: &str, figures: &[(Column, f64)]) {
        let figures: Vec<String> = figures
            .iter()
            .map(|(column, figure)| format!("{} {figure:.*}", column.title(), column.decimals()))
            .collect();
        eprintln!("{title}: {}", figures.join(", "));
    }

    /// Tells that a round failed.
    pub(crate) fn failed(&self, title: &str, error: &dyn std::error::Error) {
        eprintln!("{title}: FAILED");
        failure(error);
    }

    /// Prints all of it.
    pub(crate) fn print(&self) {
        if self.json {
            for row in &self.rows {
                println!("{}", self.row_json(row));
            }
            println!("{}", json!({ "ratios": self.ratios_json() }));
            return;
        }
        println!("\n{}\nmedian (min-max) of the rounds\n", self.server);
        let columns: Vec<Column> = Column::ALL
            .into_iter()
            .filter(|column| self.rows.iter().any(|row| row.figures.contains_key(column)))
            .collect();
        let titles: Vec<&str> = columns.iter().map(|column| column.title()).collect();
        println!("| queue | setting | {} |", titles.join(" | "));
        println!("|---|---|{}", "---:|".repeat(columns.len()));
        for row in &self.rows {
            let cells: Vec<String> = columns
                .iter()
                .map(|column| match row.spread(*column) {
                    Some(spread) => spread.text(column.decimals()),
                    None => "-".to_owned(),
                })
                .collect();
            println!(
                "| {} | {} | {} |",
                row.peer,
                row.setting.name,
                cells.join(" | ")
            );
        }
        println!();
        for row in &self.rows {
            let Row {
                peer,
                version,
                setting,
                ..
            } = row;
            println!("{peer} {version}, {}: {}", setting.name, setting.text);
        }
        println!();
        for (name, ratio) in self.ratios() {
            println!("{name}: {ratio:.2}");
        }
    }

    fn row_json(&self, row: &Row) -> Value {
        let mut fields = Map::new();
        fields.insert("peer".into(), row.peer.into());
        fields.insert("version".into(), row.version.clone().into());
        fields.insert("fenced".into(), row.fenced.clone().into());
        fields.insert("setting".into(), row.setting.name.clone().into());
        fields.insert("text".into(), row.setting.text.clone().into());
        fields.insert("server".into(), self.server.clone().into());
        for column in Column::ALL {
            let spread = row.spread(column).map(Spread::json);
            fields.insert(column.key().into(), spread.into());
        }
        Value::Object(fields)
    }

    fn ratios_json(&self) -> Value {
        let ratios = self.ratios().into_iter();
        Value::Object(ratios.map(|(name, ratio)| (name, ratio.into())).collect())
    }

    /// Ours in what it is held against, of the medians; only what was measured.
    fn ratios(&self) -> Vec<(String, f64)> {
        let peers = |row: &&Row| row.peer != "outbox" && row.peer != "bare";
        let mut ratios = Vec::new();
        for (column, what) in [(Column::Drain, "drain"), (Column::Processes, "4 processes")] {
            for ours in self.rows.iter().filter(|row| row.peer == "outbox") {
                let Some(own) = ours.spread(column) else {
                    continue;
                };
                let name = &ours.setting.name;
                if let Some((best, rate)) = self.best(column, peers) {
                    let against = format!("{} {}", best.peer, best.setting.name);
                    let title = format!("{what}, outbox {name} / best peer ({against})");
                    ratios.push((title, own.median / rate));
                }
                if let Some((best, rate)) = self.best(column, |row| row.peer == "faststream-outbox")
                {
                    let title = format!(
                        "{what}, outbox {name} / faststream-outbox {}",
                        best.setting.name
                    );
                    ratios.push((title, own.median / rate));
                }
            }
        }
        let user =
            |peer: &str, row: &&Row| row.peer == peer && row.figures.contains_key(&Column::User);
        for ours in self.rows.iter().filter(|row| user("outbox", row)) {
            for theirs in self.rows.iter().filter(|row| user("graphile_worker", row)) {
                if let (Some(own), Some(their)) =
                    (ours.spread(Column::User), theirs.spread(Column::User))
                {
                    let title = format!(
                        "user time per message, outbox {} / graphile_worker {}",
                        ours.setting.name, theirs.setting.name
                    );
                    ratios.push((title, own.median / their.median));
                }
            }
        }
        ratios
    }

    /// The row with the largest median, and that median.
    fn best(&self, column: Column, of: impl Fn(&&Row) -> bool) -> Option<(&Row, f64)> {
        let rows = self.rows.iter().filter(of);
        rows.filter_map(|row| Some((row, row.spread(column)?.median)))
            .max_by(|(_, one), (_, other)| one.total_cmp(other))
    }
}

/// A mistake in the command line, or a leg that cannot run here.
pub(crate) fn problem(problem: &str) {
    eprintln!("{problem}");
}

/// An error with its causes.
pub(crate) fn failure(error: &dyn std::error::Error) {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(peer: &'static str, setting: &str, figures: &[(Column, f64)]) -> Row {
        Row {
            peer,
            version: String::new(),
            fenced: String::new(),
            setting: Setting::new(setting, ""),
            figures: figures
                .iter()
                .map(|(column, figure)| (*column, vec![*figure]))
                .collect(),
        }
    }

    #[test]
    fn a_spread_does_not_depend_on_the_order() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]).expect("values");
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 3.0));
        assert_eq!(spread.text(1), "2.0 (1.0-3.0)");
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn ours_is_held_against_the_best_of_the_others_and_not_the_bare_statements() {
        let table = Table {
            json: false,
            server: String::new(),
            rows: vec![
                row("outbox", "default", &[(Column::Drain, 90.0)]),
                row("bare", "100 x 1", &[(Column::Drain, 100.0)]),
                row("slow", "best", &[(Column::Drain, 5.0)]),
                row("fast", "best", &[(Column::Drain, 30.0)]),
            ],
        };
        let title = "drain, outbox default / best peer (fast best)".to_owned();
        assert_eq!(table.ratios(), [(title, 3.0)]);
    }
}
