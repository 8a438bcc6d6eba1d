//! `SqliteStorage` keeps every rule of the conformance suite, and is what the reference model says, on
//! tokio and a file of its own.

#[path = "support/conformance/mod.rs"]
mod support;

use outbox_testkit::model;
use support::sqlite::SqliteSubject;
use support::{assert_published, block_on};

outbox_testkit::conformance_suite!(SqliteSubject::new().await, block_on = block_on);

#[test]
fn random_steps_do_what_the_model_says() {
    model::check(12, |steps| {
        block_on(async { model::replay(&SqliteSubject::new().await, steps).await });
    });
}

#[test]
fn the_published_report_is_what_this_storage_keeps() {
    assert_published("sqlite", SqliteSubject::new);
}
