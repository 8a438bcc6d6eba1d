//! `RedisStorage` keeps every rule of the conformance suite, except for what needs a transaction of
//! the caller's, and is what the reference model says.

mod support;

use outbox_testkit::model;
use support::{REPORT, RedisSubject, block_on, docs, report};

outbox_testkit::conformance_suite!(RedisSubject::new().await, block_on = block_on);

#[test]
fn random_steps_do_what_the_model_says() {
    model::check(64, |steps| {
        block_on(async { model::replay(&RedisSubject::new().await, steps).await });
    });
}

#[test]
fn the_published_report_is_what_this_storage_keeps() {
    let found = report();
    assert_eq!(found.broken().collect::<Vec<_>>(), []);
    let published = found.is_published(&docs());
    let published = published.expect("the reports can be read");
    assert!(published, "stale: run `{REPORT}`");
}
