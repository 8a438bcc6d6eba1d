//! From the end of a run to the verdict about its message. It is reached on the task of the run
//! and not on the agent's: it asks code of the user's, retry policies and the errors themselves,
//! which may be slow and may panic.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::registry::Registration;
use crate::error::BoxError;
use crate::outcome::{DeadReason, Outcome, Verdict, error_text};
use crate::retry::{FailedAttempt, MAX_DELAY, RetryPolicy};
use crate::storage::Claimed;

/// How a run ended.
pub(super) enum RunEnd {
    Decided(Outcome),
    Panicked(String),
    TimedOut(Duration),
    /// The worker is ending.
    Cancelled,
    /// The lease is lost.
    Lost,
}

/// The attempt a verdict is about.
pub(super) struct Attempt<'a> {
    pub(super) message: &'a Claimed,
    /// Since the message was enqueued, when the attempt ended.
    pub(super) age: Duration,
    pub(super) registration: &'a Registration,
}

impl Attempt<'_> {
    /// What is written about the run, or `None` if nothing may be written.
    pub(super) fn verdict(&self, end: RunEnd, random: f64) -> Option<Verdict> {
        Some(match end {
            RunEnd::Decided(Outcome::Done) => Verdict::Done,
            RunEnd::Decided(Outcome::Retry { after, error }) => {
                read(error, |error| self.retry(after, error, random))
            }
            RunEnd::Decided(Outcome::Snooze(after)) => Verdict::Snooze {
                after: after.min(MAX_DELAY),
            },
            RunEnd::Decided(Outcome::Discard { error }) => {
                let error = read(error, text);
                tracing::info!(id = %self.message.id, kind = &*self.message.kind, error, "message discarded by its handler");
                Verdict::Discard
            }
            RunEnd::Decided(Outcome::Dead { error }) => {
                read(error, |error| dead(DeadReason::Rejected, error))
            }
            RunEnd::Decided(Outcome::Undecodable { error }) => {
                read(error, |error| dead(DeadReason::Undecodable, error))
            }
            RunEnd::Panicked(message) => read(format!("panicked: {message}").into(), |error| {
                self.retry(None, error, random)
            }),
            RunEnd::TimedOut(limit) => read(format!("ran longer than {limit:?}").into(), |error| {
                self.retry(None, error, random)
            }),
            RunEnd::Cancelled => Verdict::Release,
            RunEnd::Lost => return None,
        })
    }

    fn retry(&self, after: Option<Duration>, error: &ErrorRef, random: f64) -> Verdict {
        if self.message.attempt >= self.message.max_attempts {
            return dead(DeadReason::Exhausted, error);
        }
        match after.or_else(|| self.delay(error, random)) {
            Some(after) => Verdict::Retry {
                after: after.min(MAX_DELAY),
                error: text(error),
            },
            None => dead(DeadReason::Exhausted, error),
        }
    }

    /// Asks the policy. One that panics is replaced by the default: a bug in it must not decide
    /// that a message is given up.
    fn delay(&self, error: &ErrorRef, random: f64) -> Option<Duration> {
        let failed = FailedAttempt::new(
            self.message.attempt,
            self.message.max_attempts,
            self.age,
            error,
        );
        let policy = &self.registration.definition.retry;
        caught(|| policy.delay(&failed, random)).unwrap_or_else(|| {
            tracing::error!(id = %self.message.id, "a retry policy panicked; the default policy is used");
            RetryPolicy::default().delay(&failed, random)
        })
    }
}

type ErrorRef = dyn std::error::Error + 'static;

fn dead(reason: DeadReason, error: &ErrorRef) -> Verdict {
    Verdict::Dead {
        reason,
        error: text(error),
    }
}

fn text(error: &ErrorRef) -> String {
    caught(|| error_text(error)).unwrap_or_else(|| "an error that panicked when it was read".into())
}

/// Reads an error and drops it; nothing in `read` may panic, as everything of the user's in it is
/// caught there.
fn read<T>(error: BoxError, read: impl FnOnce(&ErrorRef) -> T) -> T {
    let value = read(&*error);
    caught(|| drop(error));
    value
}

/// Runs code of the user's; `None` if it panicked.
pub(super) fn caught<T>(code: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(value) => Some(value),
        Err(panic) => {
            drop_panic(panic);
            None
        }
    }
}

/// Drops what a panic carried, which may panic in turn.
fn drop_panic(panic: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        // A leak ends the chain.
        std::mem::forget(again);
    }
}

/// The text of a panic, if it has one.
pub(super) fn panic_message(panic: Box<dyn Any + Send>) -> String {
    let text = if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    };
    drop_panic(panic);
    text
}
