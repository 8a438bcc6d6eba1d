//! Runs the conformance suite on Postgres or SQLite, and writes what it found to
//! `docs/conformance.md`: `cargo run --example conformance -- postgres`, or `-- sqlite`.

#[path = "../tests/support/conformance/mod.rs"]
mod support;

use std::process::ExitCode;

use support::postgres::PgSubject;
use support::sqlite::SqliteSubject;
use support::{docs, report};

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to its user"
)]
fn main() -> ExitCode {
    let report = match std::env::args().nth(1).as_deref() {
        Some("postgres") => report("postgres", PgSubject::new),
        Some("sqlite") => report("sqlite", SqliteSubject::new),
        _ => {
            eprintln!("which storage? This package knows: postgres, sqlite");
            return ExitCode::FAILURE;
        }
    };
    for (id, how) in report.broken() {
        println!("{id} is broken: {how}");
    }
    if let Err(error) = report.publish(&docs()) {
        eprintln!("{}: {error}", docs().display());
        return ExitCode::FAILURE;
    }
    match report.broken().count() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
