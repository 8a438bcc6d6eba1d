//! What is printed: text for people, or one JSON object per line.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what this module is for"
)]

use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// Where results go.
pub(crate) struct Report {
    json: bool,
    // For the plots; never held over an await.
    results: Mutex<Vec<Value>>,
}

impl Report {
    pub(crate) const fn new(json: bool) -> Self {
        Self {
            json,
            results: Mutex::new(Vec::new()),
        }
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
        if self.json {
            println!("{fields}");
        }
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.push(fields);
    }

    /// All results so far.
    pub(crate) fn results(&self) -> Vec<Value> {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.clone()
    }
}

/// A line for the process that started this one.
pub(crate) fn to_parent(line: &str) {
    println!("{line}");
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
