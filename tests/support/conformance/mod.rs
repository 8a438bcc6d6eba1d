//! What the conformance tests of Postgres and SQLite share with `examples/conformance.rs`, which
//! publishes what the suite finds about them: the subjects, and the reports.
#![allow(dead_code, reason = "each program uses a part of it")]

pub(crate) mod postgres;
pub(crate) mod sqlite;

use std::path::{Path, PathBuf};

use outbox::Headers;
use outbox_testkit::conformance::{Checked, Property, Report, Subject};

/// Runs a future on tokio.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be started")
        .block_on(future)
}

/// Headers as both databases keep them: a JSON object, or null.
fn headers(stored: Option<String>) -> Headers {
    let headers = stored.map(|json| serde_json::from_str(&json).expect("it is an object of texts"));
    Headers(headers.unwrap_or_default())
}

/// Where reports are published.
pub(crate) fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// What the suite finds about a storage.
pub(crate) fn report<S: Subject>(storage: &str, subject: impl AsyncFn() -> S) -> Report {
    report_of(storage, |property| {
        block_on(async { property.check_unless_declined(&subject().await).await })
    })
}

/// Fails if something else is published than what the suite finds about a storage. It does not run
/// the suite, which would take as long again as the tests it stands beside: whether a property
/// holds that is not declined, each of those says of its own.
pub(crate) fn assert_published<S: Subject>(storage: &str, subject: impl AsyncFn() -> S) {
    let found = block_on(async {
        let subject = subject().await;
        report_of(storage, |property| match property.declined_by(&subject) {
            Some(needed) => Checked::Declined(needed),
            None => Checked::Kept,
        })
    });
    let published = found.is_published(&docs());
    assert!(
        published.expect("the reports can be read"),
        "stale: run `{}`",
        found.command
    );
}

fn report_of(storage: &str, check: impl Fn(&'static Property) -> Checked) -> Report {
    let report = Report::run(storage, "tokio", check);
    report.by(&format!("cargo run --example conformance -- {storage}"))
}
