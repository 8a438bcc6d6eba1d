//! The command line.

use std::fmt::Display;
use std::str::FromStr;

const USAGE: &str = "\
usage: outbox-bench <drain|enqueue|idle|latency|all> [options]
  --messages N      messages of a round (drain 20000, latency 400, enqueue 2000)
  --rounds N        rounds of ours and of the bare statements, alternating (3)
  --seconds N       how long to look at an idle worker (20)
  --assert-ratio X  drain: fail if the median ratio is below X
  --json            one JSON object per line";

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    Drain,
    Enqueue,
    Idle,
    Latency,
}

const ALL: [(&str, Workload); 4] = [
    ("drain", Workload::Drain),
    ("enqueue", Workload::Enqueue),
    ("idle", Workload::Idle),
    ("latency", Workload::Latency),
];

#[derive(Debug, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) workloads: Vec<Workload>,
    /// Where the workload's own number does not do.
    pub(crate) messages: Option<usize>,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    pub(crate) assert_ratio: Option<f64>,
    pub(crate) json: bool,
}

impl Arguments {
    /// Reads what follows the program's name. The error says what is wrong and how it is used.
    pub(crate) fn parse(mut given: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self {
            workloads: Vec::new(),
            messages: None,
            rounds: 3,
            seconds: 20,
            assert_ratio: None,
            json: false,
        };
        while let Some(word) = given.next() {
            let mut value = || given.next();
            match word.as_str() {
                "--messages" => arguments.messages = Some(at_least_one(&word, value())?),
                "--rounds" => arguments.rounds = at_least_one(&word, value())?,
                "--seconds" => arguments.seconds = at_least_one(&word, value())?,
                "--assert-ratio" => arguments.assert_ratio = Some(number(&word, value())?),
                "--json" => arguments.json = true,
                "all" => arguments
                    .workloads
                    .extend(ALL.map(|(_, workload)| workload)),
                name => match ALL.iter().find(|(known, _)| *known == name) {
                    Some((_, workload)) => arguments.workloads.push(*workload),
                    None => return Err(usage(&format!("`{name}` is not known"))),
                },
            }
        }
        if arguments.workloads.is_empty() {
            return Err(usage("no workload is named"));
        }
        Ok(arguments)
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
        assert_eq!((arguments.rounds, arguments.seconds), (3, 20));
        assert!(arguments.json);
    }

    #[test]
    fn all_names_every_workload() {
        assert_eq!(parse("all").expect("valid").workloads.len(), 4);
    }

    #[test]
    fn a_mistake_is_answered_with_the_usage() {
        for line in [
            "",
            "drian",
            "drain --rounds",
            "drain --rounds 0",
            "drain --messages x",
        ] {
            let problem = parse(line).expect_err(line);
            assert!(problem.contains("usage: outbox-bench"), "{problem}");
        }
    }
}
