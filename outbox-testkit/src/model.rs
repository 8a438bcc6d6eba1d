//! A storage against a reference model, in random steps: enqueue, claim from either source, resume a
//! claim, settle and renew as a holder or as a former one, exchange, end all leases, make all due, cancel.
//!
//! The model is written for this and shares nothing with `MemoryStorage`. It leaves open what the
//! documentation of [`Storage`](outbox_core::Storage) leaves open, such as which of several expired
//! leases a claim takes first where their queues differ.
//!
//! ```
//! use outbox_testkit::SimRuntime;
//! use outbox_testkit::conformance::MemorySubject;
//! use outbox_testkit::model;
//!
//! model::check(16, |steps| {
//!     SimRuntime::new(1).block_on(async { model::replay(&MemorySubject::new(), steps).await });
//! });
//! ```

mod reference;
mod replay;
mod steps;

use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};

pub use replay::replay;
pub use steps::Step;

/// Runs `replay` on so many random lists of steps, always the same. A list that makes it panic is
/// shortened, and the shortest one found is part of the panic.
///
/// `OUTBOX_MODEL_CASES` is another number of lists, `OUTBOX_MODEL_SEED` chooses other ones.
///
/// # Panics
/// When `replay` does, and when a variable is not a number.
pub fn check(cases: u32, replay: impl Fn(&[Step])) {
    let number = |variable| -> Option<u64> {
        let value = std::env::var(variable).ok()?;
        Some(value.parse().expect("the variable is a number"))
    };
    let cases = number("OUTBOX_MODEL_CASES").map_or(cases, |cases| cases as u32);
    let seed = number("OUTBOX_MODEL_SEED").unwrap_or(0);
    let mut runner = TestRunner::new(Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        // A storage with a server takes a second for a list; the shortest one is no goal in itself.
        max_shrink_iters: 512,
        ..Config::default()
    });
    let checked = runner.run(&steps::steps(), |steps| {
        replay(&steps);
        Ok(())
    });
    match checked {
        Ok(()) => {}
        Err(TestError::Fail(reason, steps)) => {
            let steps: Vec<_> = steps.iter().map(|step| format!("    {step:?}")).collect();
            panic!(
                "the storage is not what the model says (seed {seed}): {reason}\nafter these steps:\n{}",
                steps.join("\n")
            );
        }
        Err(TestError::Abort(reason)) => panic!("the steps could not be run: {reason}"),
    }
}
