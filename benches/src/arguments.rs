//! The command line.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use crate::workload::sqlite::OnSqlite;
use crate::workload::states::Much;

const USAGE: &str = "\
usage: outbox-bench <workload>..|all [options]
  drain      a full queue                    few        4 and 16 handlers of 1 ms
  enqueue    one by one, and many at once    tuned      against batches of 500 on 2 connections
  idle       statements/s of an idle worker  processes  4 worker processes, and 1
  latency    commit to start, when idle      queues     20 queues, one of them with half
  loaded     the same at half load           sustained  with a producer, for --seconds
  scheduled  how late messages start         snapshot   the same, with an old snapshot elsewhere
  backlog    of 1 M due messages             leased     10 k and 100 k leased by others
  future     1 M due tomorrow                dead       1 M dead letters
  memory     resident, over 5 M messages     relaxed    without waiting for the disk
  sqlite-drain, sqlite-enqueue, sqlite-latency: those on a SQLite file, with no server
  all: every one, with a tenth of those millions unless --scale says otherwise: five minutes
  --messages N      messages of a round (such as drain 20000, enqueue 2000, latency 400)
  --rounds N        rounds of ours and of the bare statements, alternating (3; sustained, snapshot 1)
  --seconds N       how long idle, sustained and snapshot look at it (20)
  --scale X         of what else is in the outbox (1; with all 0.1)
  --assert-ratio X  drain, sqlite-drain: fail if the median ratio is below X
  --baseline FILE   fail if a message costs more than FILE allows (benches/baseline.json)
  --json            one JSON object per line
  --plot DIR        also write pictures (SVG) of the results";

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    Drain,
    Enqueue,
    Idle,
    Latency,
    Much(Much),
    Few,
    Tuned,
    Processes,
    Loaded,
    Queues,
    Scheduled,
    Sustained { snapshot: bool },
    Relaxed,
    Memory,
    Sqlite(OnSqlite),
}

const ALL: [(&str, Workload); 21] = [
    ("drain", Workload::Drain),
    ("enqueue", Workload::Enqueue),
    ("idle", Workload::Idle),
    ("latency", Workload::Latency),
    ("backlog", Workload::Much(Much::Backlog)),
    ("future", Workload::Much(Much::Future)),
    ("leased", Workload::Much(Much::Leased)),
    ("dead", Workload::Much(Much::Dead)),
    ("few", Workload::Few),
    ("tuned", Workload::Tuned),
    ("processes", Workload::Processes),
    ("relaxed", Workload::Relaxed),
    ("queues", Workload::Queues),
    ("loaded", Workload::Loaded),
    ("memory", Workload::Memory),
    ("scheduled", Workload::Scheduled),
    ("snapshot", Workload::Sustained { snapshot: true }),
    ("sustained", Workload::Sustained { snapshot: false }),
    ("sqlite-drain", Workload::Sqlite(OnSqlite::Drain)),
    ("sqlite-enqueue", Workload::Sqlite(OnSqlite::Enqueue)),
    ("sqlite-latency", Workload::Sqlite(OnSqlite::Latency)),
];
/// What a person waits for.
const SCALE_OF_ALL: f64 = 0.1;

#[derive(Debug, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) workloads: Vec<Workload>,
    /// Where the workload's own number does not do.
    pub(crate) messages: Option<usize>,
    rounds: Option<usize>,
    pub(crate) seconds: u64,
    scale: f64,
    pub(crate) assert_ratio: Option<f64>,
    /// What a message may cost.
    pub(crate) baseline: Option<PathBuf>,
    pub(crate) json: bool,
    /// The folder of the pictures.
    pub(crate) plot: Option<PathBuf>,
}

impl Arguments {
    /// Reads what follows the program's name. The error says what is wrong and how it is used.
    pub(crate) fn parse(mut given: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self {
            workloads: Vec::new(),
            messages: None,
            rounds: None,
            seconds: 20,
            scale: 1.0,
            assert_ratio: None,
            baseline: None,
            json: false,
            plot: None,
        };
        let mut scale = None;
        while let Some(word) = given.next() {
            let mut value = || given.next();
            match word.as_str() {
                "--messages" => arguments.messages = Some(at_least_one(&word, value())?),
                "--rounds" => arguments.rounds = Some(at_least_one(&word, value())?),
                "--seconds" => arguments.seconds = at_least_one(&word, value())?,
                "--assert-ratio" => arguments.assert_ratio = Some(number(&word, value())?),
                "--baseline" => arguments.baseline = Some(number(&word, value())?),
                "--plot" => arguments.plot = Some(number(&word, value())?),
                "--json" => arguments.json = true,
                "--scale" => scale = Some(number(&word, value())?),
                "all" => {
                    let all = ALL.map(|(_, workload)| workload);
                    arguments.workloads.extend(all);
                    arguments.scale = SCALE_OF_ALL;
                }
                name => match ALL.iter().find(|(known, _)| *known == name) {
                    Some((_, workload)) => arguments.workloads.push(*workload),
                    None => return Err(usage(&format!("`{name}` is not known"))),
                },
            }
        }
        if arguments.workloads.is_empty() {
            return Err(usage("no workload is named"));
        }
        arguments.scale = scale.unwrap_or(arguments.scale);
        if !(arguments.scale > 0.0 && arguments.scale.is_finite()) {
            return Err(usage("--scale must be above 0"));
        }
        Ok(arguments)
    }

    /// Of a workload that takes a second or two.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(3)
    }

    /// Of a workload that takes `seconds`.
    pub(crate) fn long_rounds(&self) -> usize {
        self.rounds.unwrap_or(1)
    }

    /// So many of what else is in the outbox, or fewer if the user said so; at least one.
    pub(crate) fn scaled(&self, count: usize) -> usize {
        ((count as f64 * self.scale) as usize).max(1)
    }
}

fn number<T: FromStr<Err: Display>>(name: &str, value: Option<String>) -> Result<T, String> {
    let Some(value) = value else {
        return Err(usage(&format!("{name} needs a value")));
    };
    value
        .parse()
        .map_err(|error| usage(&format!("{name} {value}: {error}")))
}

fn at_least_one<T>(name: &str, value: Option<String>) -> Result<T, String>
where
    T: FromStr<Err: Display> + From<u8> + PartialOrd,
{
    let number = number(name, value)?;
    if number < T::from(1) {
        return Err(usage(&format!("{name} must be at least 1")));
    }
    Ok(number)
}

fn usage(problem: &str) -> String {
    format!("{problem}\n{USAGE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_may_stand_before_and_after_the_workload() {
        let arguments = parse("--json drain --messages 7 --assert-ratio 0.5").expect("valid");
        assert_eq!(arguments.workloads, [Workload::Drain]);
        assert_eq!(arguments.messages, Some(7));
        assert_eq!(arguments.assert_ratio, Some(0.5));
        assert_eq!((arguments.rounds(), arguments.seconds), (3, 20));
        assert!(arguments.json);
        assert_eq!(arguments.long_rounds(), 1);
    }

    #[test]
    fn all_names_every_workload() {
        assert_eq!(parse("all").expect("valid").workloads.len(), ALL.len());
        for (name, workload) in ALL {
            assert_eq!(parse(name).expect("valid").workloads, [workload]);
            assert!(USAGE.contains(&format!(" {name}")), "{name}");
        }
    }

    #[test]
    fn all_is_smaller_unless_the_scale_is_named() {
        let million = |line| parse(line).expect("valid").scaled(1_000_000);
        assert_eq!(million("backlog"), 1_000_000);
        assert_eq!(million("all"), 100_000);
        assert_eq!(million("--scale 0.5 all"), 500_000);
        assert_eq!(million("backlog --scale 0.0000001"), 1);
    }

    #[test]
    fn a_mistake_is_answered_with_the_usage() {
        for line in [
            "",
            "drian",
            "drain --rounds",
            "drain --rounds 0",
            "drain --messages x",
            "backlog --scale 0",
            "backlog --scale NaN",
        ] {
            let problem = parse(line).expect_err(line);
            assert!(problem.contains("usage: outbox-bench"), "{problem}");
        }
    }
}
