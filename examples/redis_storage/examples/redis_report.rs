//! Runs the conformance suite on Redis, and writes what it found to `docs/conformance.md`:
//! `cargo run -p outbox-example-redis --example redis_report`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to its user"
)]
fn main() -> ExitCode {
    let report = support::report();
    for (id, how) in report.broken() {
        println!("{id} is broken: {how}");
    }
    if let Err(error) = report.publish(&support::docs()) {
        eprintln!("{}: {error}", support::docs().display());
        return ExitCode::FAILURE;
    }
    match report.broken().count() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
