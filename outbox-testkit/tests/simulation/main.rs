//! A thousand worlds, one to a seed: workers that crash, stall and are shut down, on a storage whose
//! calls are lost, delayed and doubled. No message is lost, nor is a dead letter; nobody but the
//! holder writes, no message has two valid leases, none starts before it is due, and each ends as its
//! handler decided.
//!
//! `OUTBOX_SIM_SEED` runs one seed alone and prints what happened in it; `OUTBOX_SIM_SEEDS` runs
//! another number of seeds.

mod broken;
mod front;
mod recorder;
mod script;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use broken::{Broken, Defect};
use outbox_core::{MemoryStorage, Storage};
use world::Ended;

/// The tests that share the seeds between them, so that they run side by side.
const SHARES: u64 = 4;

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().expect("a number"))
}

/// Runs the seeds of this share.
#[expect(
    clippy::print_stdout,
    reason = "shown with --nocapture, and when a seed fails"
)]
fn run_share(share: u64) {
    let one = number("OUTBOX_SIM_SEED");
    let seeds = match one {
        Some(seed) => seed..seed + 1,
        None => 0..number("OUTBOX_SIM_SEEDS").unwrap_or(1_000),
    };
    let mut ended = Vec::new();
    for seed in seeds.filter(|seed| seed % SHARES == share) {
        ended.push(check(seed, |memory| Arc::new(memory)));
    }
    if let (Some(_), [only]) = (one, &ended[..]) {
        println!("{}", only.trace.join("\n"));
    }
    if ended.len() >= 250 {
        println!("{:?}", counts_that_matter(&ended));
    }
}

/// Runs a world; panics with the command that runs it again if a rule is broken in it.
fn check(seed: u64, break_storage: impl FnOnce(MemoryStorage) -> Arc<dyn Storage>) -> Ended {
    let world = catch_unwind(AssertUnwindSafe(|| world::run(seed, break_storage)));
    let replay = format!("OUTBOX_SIM_SEED={seed} cargo test -p outbox-testkit --test simulation");
    let Ok(ended) = world else {
        panic!("seed {seed} panics, see above; to run it again:\n{replay}");
    };
    assert!(
        ended.violations.is_empty(),
        "seed {seed} breaks rules; to run it again:\n{replay}\n{}\n{}",
        ended.violations.join("\n"),
        match number("OUTBOX_SIM_SEED") {
            Some(_) => ended.trace.join("\n"),
            None => String::new(),
        }
    );
    ended
}

/// How often the rules were in danger; one that never was, was not tested.
fn counts_that_matter(ended: &[Ended]) -> [(&'static str, usize); 14] {
    let sum = |count: fn(&Ended) -> usize| ended.iter().map(count).sum::<usize>();
    let counts = [
        ("messages", sum(|one| one.tally.messages)),
        ("killed processes", sum(|one| one.kills)),
        ("stopped processes", sum(|one| one.stops)),
        ("processes that were shut down", sum(|one| one.shutdowns)),
        ("faults", sum(|one| one.faults)),
        ("exchanges beside others", sum(|one| one.beside)),
        ("takeovers", sum(|one| one.tally.takeovers)),
        ("releases", sum(|one| one.tally.releases)),
        ("dead letters", sum(|one| one.tally.dead)),
        (
            "settles that were refused",
            sum(|one| one.tally.refused_settles),
        ),
        (
            "renewals that were refused",
            sum(|one| one.tally.refused_renewals),
        ),
        ("claims that came late", sum(|one| one.tally.late_claims)),
        ("messages that crashed", sum(|one| one.tally.crashed)),
        (
            "messages lost on their last attempt",
            sum(|one| one.tally.expired),
        ),
    ];
    for (what, count) in counts {
        assert!(count > 10, "only {count} {what}");
    }
    counts
}

#[test]
fn no_seed_breaks_a_rule_1_of_4() {
    run_share(0);
}

#[test]
fn no_seed_breaks_a_rule_2_of_4() {
    run_share(1);
}

#[test]
fn no_seed_breaks_a_rule_3_of_4() {
    run_share(2);
}

#[test]
fn no_seed_breaks_a_rule_4_of_4() {
    run_share(3);
}

#[test]
fn a_seed_repeats_its_world() {
    for seed in [3, 14, 159] {
        let first = world::run(seed, |memory| Arc::new(memory));
        let second = world::run(seed, |memory| Arc::new(memory));
        assert!(first.trace.len() > 100, "something happens");
        let differs = first.trace.iter().zip(&second.trace).find(|(a, b)| a != b);
        assert_eq!(differs, None);
        assert_eq!(first.trace.len(), second.trace.len());
    }
}

#[test]
fn a_storage_without_a_fence_is_found() {
    finds(Defect::NotFenced, "the holder settles, and nobody else");
}

#[test]
fn a_storage_that_loses_retries_is_found() {
    finds(Defect::RetriesAreLost, "no message is lost");
}

#[test]
fn a_storage_that_loses_what_is_released_is_found() {
    finds(Defect::ReleasesAreLost, "no message is lost");
}

#[test]
fn a_storage_that_loses_dead_letters_is_found() {
    finds(Defect::DeadLettersAreLost, "no dead letter is lost");
}

#[test]
fn a_storage_that_lets_nothing_wait_is_found() {
    let rule = "a message is not claimed before it is due";
    finds(Defect::NothingWaits, rule);
}

#[test]
fn a_storage_that_takes_over_too_early_is_found() {
    let rule = "a message has one valid lease at most";
    finds(Defect::TakesOverTooEarly, rule);
}

/// One of the first seeds must break this rule, and say how to run it again.
fn finds(defect: Defect, rule: &str) {
    for seed in 0..30 {
        let break_storage = |memory| -> Arc<dyn Storage> { Arc::new(Broken { memory, defect }) };
        let found = catch_unwind(AssertUnwindSafe(|| check(seed, break_storage)));
        let Err(panic) = found else {
            continue;
        };
        let text = panic.downcast::<String>().expect("a formatted message");
        let replay =
            format!("\nOUTBOX_SIM_SEED={seed} cargo test -p outbox-testkit --test simulation\n");
        assert!(text.contains(rule) && text.contains(&replay), "{text}");
        return;
    }
    panic!("30 seeds did not break the rule that {rule}");
}
