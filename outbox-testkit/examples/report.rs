//! Runs the conformance suite on a storage, and writes what it found to `docs/conformance.md`:
//! `cargo run -p outbox-testkit --example report -- memory`.

use std::path::Path;
use std::process::ExitCode;

use outbox_testkit::SimRuntime;
use outbox_testkit::conformance::{MemorySubject, Report};

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to its user"
)]
fn main() -> ExitCode {
    let report = match std::env::args().nth(1).as_deref() {
        Some("memory") => memory(),
        _ => {
            eprintln!("which storage? This package knows: memory");
            return ExitCode::FAILURE;
        }
    };
    for (id, how) in report.broken() {
        println!("{id} is broken: {how}");
    }
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    if let Err(error) = report.publish(&docs) {
        eprintln!("{}: {error}", docs.display());
        return ExitCode::FAILURE;
    }
    match report.broken().count() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn memory() -> Report {
    Report::run("memory", "simulated", |property| {
        SimRuntime::new(1)
            .block_on(async { property.check_unless_declined(&MemorySubject::new()).await })
    })
    .by("cargo run -p outbox-testkit --example report -- memory")
}
