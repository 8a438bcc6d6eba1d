//! What is printed: text for people, or one JSON object per line.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what this module is for"
)]

use serde_json::{Map, Value};

/// Where results go.
pub(crate) struct Report {
    json: bool,
}

impl Report {
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// A line for people; left out of JSON.
    pub(crate) fn note(&self, line: &str) {
        if !self.json {
            println!("{line}");
        }
    }

    /// A result. `fields` are those every line has (`workload`, `ours`, `bare`, `ratio`) and what
    /// the workload adds; null where something cannot be measured on this server.
    pub(crate) fn result(&self, fields: Value) {
        let fields: Map<String, Value> = match fields {
            Value::Object(fields) => fields,
            other => Map::from_iter([("result".to_owned(), other)]),
        };
        if self.json {
            println!("{}", Value::Object(fields));
        }
    }
}

/// A mistake in the command line.
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
