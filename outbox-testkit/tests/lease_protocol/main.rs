//! The lease protocol, explored exhaustively: ours is safe and can always come to an end, and each
//! variant that leaves something out breaks a named rule, in the shortest way there is.

mod numbers;
mod protocol;
mod search;
mod step;
mod world;

use protocol::{Broken, Effect, Fence, Protocol, Takeover, Tokens};
use search::explore;
use step::Step;

const OURS: Protocol = Protocol::OURS;

fn is_safe_and_live(protocol: &Protocol) {
    let explored = explore(protocol);
    assert!(explored.worlds > 1_000, "only {}", explored.worlds);
    if let Some((rule, steps)) = explored.broken {
        panic!("{rule:?}: {}", told(&steps).join(", "));
    }
    assert_eq!(explored.stuck, 0, "worlds that cannot come to an end");
}

/// The shortest way in which this variant breaks a rule.
fn breaks(protocol: &Protocol, rule: Broken, way: &[&str]) {
    let explored = explore(protocol);
    let (broken, steps) = explored.broken.expect("a rule is broken");
    assert_eq!(broken, rule);
    assert_eq!(told(&steps), way);
}

fn told(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

#[test]
fn our_protocol_is_safe_and_live() {
    is_safe_and_live(&OURS);
}

#[test]
fn refusing_late_writes_of_the_only_holder_is_as_safe() {
    is_safe_and_live(&Protocol {
        settle: Fence::TokenInTime,
        renew: Fence::TokenInTime,
        ..OURS
    });
}

#[test]
fn random_tokens_survive_a_failover_that_loses_claims() {
    is_safe_and_live(&Protocol {
        failover: true,
        ..OURS
    });
}

#[test]
fn a_claim_that_comes_late_does_no_harm() {
    is_safe_and_live(&Protocol {
        late_claims: true,
        ..OURS
    });
}

#[test]
fn a_counter_as_token_repeats_after_a_failover() {
    breaks(
        &Protocol {
            tokens: Tokens::Counter,
            failover: true,
            ..OURS
        },
        Broken::NotTheHolder,
        &[
            "the standby falls behind",
            "run 0 claims",
            "the storage fails over",
            "run 2 claims, and the reply is lost",
            "run 0 renews",
        ],
    );
}

#[test]
fn a_settle_fenced_by_the_lease_alone_takes_it_from_another() {
    breaks(
        &Protocol {
            settle: Fence::SomeLease,
            ..OURS
        },
        Broken::NotTheHolder,
        &[
            "run 0 claims",
            "run 0 settles to retry, and the reply is lost",
            "run 1 claims, and the reply is lost",
            "run 0 repeats its outcome",
        ],
    );
}

#[test]
fn a_settle_fenced_by_the_worker_takes_it_from_another_run_of_that_worker() {
    breaks(
        &Protocol {
            settle: Fence::Worker,
            ..OURS
        },
        Broken::NotTheHolder,
        &[
            "run 0 claims",
            "run 0 settles to retry, and the reply is lost",
            "run 1 claims, and the reply is lost",
            "run 0 repeats its outcome",
        ],
    );
}

#[test]
fn a_settle_without_a_fence_needs_no_other_run() {
    breaks(
        &Protocol {
            settle: Fence::Nothing,
            ..OURS
        },
        Broken::NotTheHolder,
        &[
            "run 0 claims",
            "run 0 settles to retry, and the reply is lost",
            "run 0 repeats its outcome",
        ],
    );
}

#[test]
fn a_renew_without_a_token_keeps_the_lease_of_another() {
    breaks(
        &Protocol {
            renew: Fence::SomeLease,
            ..OURS
        },
        Broken::NotTheHolder,
        &[
            "run 0 claims",
            "time passes",
            "time passes",
            "run 1 claims, and the reply is lost",
            "run 0 renews",
        ],
    );
}

#[test]
fn a_clock_of_the_claimer_that_is_ahead_makes_two_leases() {
    breaks(
        &Protocol { ahead: 1, ..OURS },
        Broken::TwoLeases,
        &[
            "run 0 claims, and the reply is lost",
            "time passes",
            "run 1 claims, and the reply is lost",
        ],
    );
}

#[test]
fn the_attempt_as_token_repeats_when_a_takeover_is_no_attempt() {
    breaks(
        &Protocol {
            tokens: Tokens::Attempt,
            ..OURS
        },
        Broken::NotTheHolder,
        &[
            "run 0 claims",
            "time passes",
            "time passes",
            "run 1 claims, and the reply is lost",
            "run 0 renews",
        ],
    );
}

#[test]
fn an_effect_before_its_settle_happens_twice() {
    breaks(
        &Protocol {
            effect: Effect::Before,
            ..OURS
        },
        Broken::EffectTwice,
        &[
            "run 0 claims",
            "run 0 commits its effect",
            "run 0 releases",
            "run 0 claims",
            "run 0 commits its effect",
        ],
    );
}

#[test]
fn an_effect_after_its_settle_may_never_happen() {
    breaks(
        &Protocol {
            effect: Effect::After,
            ..OURS
        },
        Broken::DoneWithoutEffect,
        &["run 0 claims", "run 0 completes"],
    );
}

#[test]
fn a_transaction_that_commits_without_its_settle_happens_twice() {
    breaks(
        &Protocol {
            rows_are_checked: false,
            ..OURS
        },
        Broken::EffectTwice,
        &[
            "run 0 claims",
            "run 0 completes, and the reply is lost",
            "run 0 repeats its outcome",
        ],
    );
}

#[test]
fn a_takeover_in_two_statements_brings_back_what_is_done() {
    breaks(
        &Protocol {
            takeover: Takeover::FromStaleRead,
            ..OURS
        },
        Broken::EffectTwice,
        &[
            "run 0 claims",
            "time passes",
            "time passes",
            "a rescuer finds an ended lease",
            "run 0 completes",
            "the rescuer frees the message",
            "run 0 claims",
            "run 0 completes",
        ],
    );
}

#[test]
fn losses_that_are_not_counted_have_no_end() {
    breaks(
        &Protocol {
            losses_are_counted: false,
            ..OURS
        },
        Broken::TooManyLosses,
        &[
            "run 0 claims, and the reply is lost",
            "time passes",
            "time passes",
            "run 1 claims, and the reply is lost",
            "time passes",
            "time passes",
            "run 0 asks for its claim again",
        ],
    );
}

#[test]
fn without_takeovers_a_message_may_never_come_to_its_end() {
    let explored = explore(&Protocol {
        takeover: Takeover::Never,
        ..OURS
    });
    assert_eq!(explored.broken, None);
    assert!(explored.stuck > 0);
}
