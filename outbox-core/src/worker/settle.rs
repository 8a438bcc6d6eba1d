//! From the end of a run to the write about it: which verdict an outcome becomes, and the
//! settlements that wait to be written or asked for again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::execute::{Finished, RunEnd};
use super::registry::Registration;
use crate::error::BoxError;
use crate::lease::Held;
use crate::message::MessageId;
use crate::outcome::{DeadReason, Outcome, Settlement, Verdict, clip_error, error_text};
use crate::retry::{FailedAttempt, RetryPolicy};
use crate::telemetry::{About, Written};

/// Most settlements of one call.
const MAX_SETTLE: usize = 1_000;

/// A settlement and what has to be known to tell about it.
pub(super) struct Pending {
    pub(super) settlement: Settlement,
    pub(super) queue: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) attempt: u16,
    pub(super) duration: Duration,
    /// A call that held this settlement failed, and may have written it.
    asked_before: bool,
}

impl Pending {
    pub(super) fn new(
        settlement: Settlement,
        queue: Arc<str>,
        kind: Arc<str>,
        attempt: u16,
        duration: Duration,
    ) -> Self {
        Self {
            settlement,
            queue,
            kind,
            attempt,
            duration,
            asked_before: false,
        }
    }

    pub(super) fn about(&self) -> About<'_> {
        About::new(self.settlement.id, &self.queue, &self.kind, self.attempt)
    }

    pub(super) fn held(&self) -> Held {
        Held {
            id: self.settlement.id,
            token: self.settlement.token,
        }
    }

    pub(super) fn written(&self) -> Written {
        match &self.settlement.verdict {
            Verdict::Done => Written::Done,
            Verdict::Discard => Written::Discarded,
            Verdict::Retry { after, .. } => Written::Retried(*after),
            Verdict::Snooze { after } => Written::Snoozed(*after),
            Verdict::Release => Written::Released,
            Verdict::Dead { reason, .. } => Written::Dead(*reason),
        }
    }
}

/// How a settlement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Written,
    Lost,
    /// Asked twice, and the first reply was lost.
    Unresolved,
}

/// Settlements that wait for the next exchange, and those in the present one.
#[derive(Default)]
pub(super) struct Outgoing {
    waiting: Vec<Pending>,
    asked: Vec<Pending>,
    /// How many of the waiting ones go alone, because a call with all of them was refused for
    /// good and one of them is to blame.
    alone: usize,
}

impl Outgoing {
    pub(super) fn push(&mut self, pending: Pending) {
        self.waiting.push(pending);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.asked.is_empty()
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes what goes with the next call.
    pub(super) fn ask(&mut self) -> Vec<Settlement> {
        let count = if self.alone > 0 {
            self.alone -= 1;
            1
        } else {
            self.waiting.len().min(MAX_SETTLE)
        };
        self.asked = self.waiting.drain(..count).collect();
        self.asked
            .iter()
            .map(|pending| pending.settlement.clone())
            .collect()
    }

    /// The call answered with the ids it wrote.
    pub(super) fn answered(&mut self, written: &[MessageId]) -> Vec<(Pending, Fate)> {
        let written: HashSet<MessageId> = written.iter().copied().collect();
        std::mem::take(&mut self.asked)
            .into_iter()
            .map(|pending| {
                let fate = if written.contains(&pending.settlement.id) {
                    Fate::Written
                } else if pending.asked_before {
                    Fate::Unresolved
                } else {
                    Fate::Lost
                };
                (pending, fate)
            })
            .collect()
    }

    /// The call failed and is repeated: first in the next exchange.
    pub(super) fn failed(&mut self) {
        for pending in &mut self.asked {
            pending.asked_before = true;
        }
        self.asked.append(&mut self.waiting);
        self.waiting = std::mem::take(&mut self.asked);
    }

    /// The call was refused for good. A batch is asked again one by one; a single settlement is
    /// given up and returned, and its message comes back when its lease ends.
    pub(super) fn refused(&mut self) -> Option<Pending> {
        if self.asked.len() == 1 {
            return self.asked.pop();
        }
        self.alone = self.asked.len();
        self.asked.append(&mut self.waiting);
        self.waiting = std::mem::take(&mut self.asked);
        None
    }
}

/// What is written about a run, or `None` if nothing may be written.
pub(super) fn verdict(
    finished: Finished,
    registration: &Registration,
    random: f64,
) -> Option<Verdict> {
    let limits = Limits {
        attempt: finished.attempt,
        max_attempts: registration
            .definition
            .max_attempts
            .unwrap_or(finished.max_attempts),
        age: finished.age + finished.duration,
        policy: &registration.definition.retry,
        random,
    };
    Some(match finished.end {
        RunEnd::Decided(Outcome::Done) => Verdict::Done,
        RunEnd::Decided(Outcome::Retry { after, error }) => limits.retry(after, error),
        RunEnd::Decided(Outcome::Snooze(after)) => Verdict::Snooze { after },
        RunEnd::Decided(Outcome::Discard { error }) => {
            tracing::info!(id = %finished.held.id, kind = %finished.kind, error = %error_text(&*error), "message discarded by its handler");
            Verdict::Discard
        }
        RunEnd::Decided(Outcome::Dead { error }) => dead(DeadReason::Rejected, &error),
        RunEnd::Decided(Outcome::Undecodable { error }) => dead(DeadReason::Undecodable, &error),
        RunEnd::Panicked(message) => limits.retry(None, format!("panicked: {message}").into()),
        RunEnd::TimedOut(limit) => limits.retry(None, format!("ran longer than {limit:?}").into()),
        RunEnd::Cancelled => Verdict::Release,
        RunEnd::Lost => return None,
    })
}

fn dead(reason: DeadReason, error: &BoxError) -> Verdict {
    Verdict::Dead {
        reason,
        error: clip_error(error_text(&**error)),
    }
}

struct Limits<'a> {
    attempt: u16,
    max_attempts: u16,
    age: Duration,
    policy: &'a RetryPolicy,
    random: f64,
}

impl Limits<'_> {
    fn retry(&self, after: Option<Duration>, error: BoxError) -> Verdict {
        if self.attempt >= self.max_attempts {
            return dead(DeadReason::Exhausted, &error);
        }
        match after.or_else(|| self.delay(&error)) {
            Some(after) => Verdict::Retry {
                after: after.min(crate::retry::MAX_DELAY),
                error: clip_error(error_text(&*error)),
            },
            None => dead(DeadReason::Exhausted, &error),
        }
    }

    /// Asks the policy. One that panics is replaced by the default: a bug in it must not decide
    /// that a message is given up.
    fn delay(&self, error: &BoxError) -> Option<Duration> {
        let failed = FailedAttempt::new(self.attempt, self.max_attempts, self.age, &**error);
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.policy.delay(&failed, self.random)
        }));
        asked.unwrap_or_else(|_| {
            tracing::error!("a retry policy panicked; the default policy is used");
            RetryPolicy::default().delay(&failed, self.random)
        })
    }
}
