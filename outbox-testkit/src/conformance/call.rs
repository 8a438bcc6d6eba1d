//! `CALL`: what is true of every call.

use std::iter::repeat_n;

use outbox_core::{Source, Verdict};

use super::Subject;
use super::steps::{
    LEASE_TTL, QUEUE, claim, enqueue, ids, message, renew, request, retry, settle_all, settlement,
    sorted,
};

/// As many as a worker settles in one call.
const MANY: usize = 1_000;

/// CALL-01: a storage that can be used says so when it is checked.
pub async fn a_storage_that_works_passes_its_check(subject: &dyn Subject) {
    let checked = subject.storage().check().await;
    checked.expect("the storage under test can be used");
}

/// CALL-02: each call may speak of a thousand messages.
pub async fn a_call_speaks_of_a_thousand_messages(subject: &dyn Subject) {
    let written = enqueue(subject, repeat_n(message(*b"x"), MANY).collect()).await;
    let held = claim(subject, &request(&[QUEUE], MANY, Source::Pending)).await;
    let held = held.messages;
    assert_eq!(sorted(ids(&held)), written);
    let all: Vec<_> = held.iter().collect();
    let (renewed, lost) = renew(subject, &all, LEASE_TTL * 2).await;
    assert_eq!((renewed, lost), (written.clone(), vec![]));
    let verdict = |place| match place % 2 {
        0 => retry(std::time::Duration::ZERO),
        _ => Verdict::Done,
    };
    let settlements: Vec<_> = held
        .iter()
        .enumerate()
        .map(|(place, claimed)| settlement(claimed, verdict(place)))
        .collect();
    assert_eq!(settle_all(subject, &settlements).await, written);
    let again = claim(subject, &request(&[QUEUE], MANY, Source::Pending)).await;
    assert_eq!(again.messages.len(), MANY / 2);
}
