//! The command line.

use std::fmt::Display;
use std::str::FromStr;

use crate::legs::{ALL, Known};
use crate::workload::Workload;

const USAGE: &str = "\
usage: peers [peer | workload].. [options]
  peers      outbox bare graphile_worker apalis-postgres sqlxmq riverqueue awa ruststream
             ruststream-rowlock faststream-outbox; all of them if none is named
  workloads  drain processes enqueue latency; all of them if none is named
  --messages N  messages of a drain (100000); slow settings take fewer
  --rounds N    rounds, in each of which every one runs once (3)
  --json        one JSON object per line";

/// What is run.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) peers: Vec<&'static Known>,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) messages: usize,
    pub(crate) rounds: usize,
    pub(crate) json: bool,
}

impl Arguments {
    /// Reads what follows the program's name. The error says what is wrong and how it is used.
    pub(crate) fn parse(mut given: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self {
            peers: Vec::new(),
            workloads: Vec::new(),
            messages: 100_000,
            rounds: 3,
            json: false,
        };
        while let Some(word) = given.next() {
            match word.as_str() {
                "--messages" => arguments.messages = number(&word, given.next())?,
                "--rounds" => arguments.rounds = number(&word, given.next())?,
                "--json" => arguments.json = true,
                name => {
                    if let Some(known) = ALL.iter().find(|known| known.name == name) {
                        arguments.peers.push(known);
                    } else if let Some(workload) = Workload::named(name) {
                        arguments.workloads.push(workload);
                    } else {
                        return Err(usage(&format!("`{name}` is not known")));
                    }
                }
            }
        }
        if arguments.peers.is_empty() {
            arguments.peers = ALL.iter().collect();
        }
        if arguments.workloads.is_empty() {
            arguments.workloads = Workload::ALL.to_vec();
        }
        Ok(arguments)
    }
}

fn number<T>(name: &str, value: Option<String>) -> Result<T, String>
where
    T: FromStr<Err: Display> + From<u8> + PartialOrd,
{
    let Some(value) = value else {
        return Err(usage(&format!("{name} needs a value")));
    };
    let number: T = value
        .parse()
        .map_err(|error| usage(&format!("{name} {value}: {error}")))?;
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
    fn nothing_named_means_everything() {
        let arguments = parse("--rounds 2").expect("valid");
        assert_eq!(arguments.peers.len(), ALL.len());
        assert_eq!(arguments.workloads, Workload::ALL);
        assert_eq!((arguments.rounds, arguments.messages), (2, 100_000));
    }

    #[test]
    fn peers_and_workloads_are_named_in_any_order() {
        let arguments = parse("drain sqlxmq --json outbox --messages 9").expect("valid");
        let names: Vec<&str> = arguments.peers.iter().map(|known| known.name).collect();
        assert_eq!(names, ["sqlxmq", "outbox"]);
        assert_eq!(arguments.workloads, [Workload::Drain]);
        assert_eq!((arguments.json, arguments.messages), (true, 9));
    }

    #[test]
    fn a_mistake_is_answered_with_every_name() {
        for line in ["drian", "--rounds", "--rounds 0", "--messages x"] {
            let problem = parse(line).expect_err(line);
            for known in ALL {
                assert!(problem.contains(known.name), "{problem}");
            }
        }
    }
}
