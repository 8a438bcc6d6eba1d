//! How a handler says that it failed and what shall happen next: with a type, not with a text.

use std::fmt;
use std::time::Duration;

use crate::error::BoxError;
use crate::outcome::Outcome;

/// What a handler returns.
pub type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// A failed run, and what shall happen to the message. Every type that implements
/// [`Error`](std::error::Error) and is `Send`, `Sync` and `'static` converts into one with `?`, and
/// then means: retry by the handler's policy.
///
/// It is deliberately not an [`Error`](std::error::Error) itself, which is what lets `?` convert
/// every type that is (the same trade as `anyhow::Error`). What is not converts with
/// [`or_retry`](OrFail::or_retry) and the other methods of [`OrFail`].
pub struct Failure {
    next: Next,
    error: BoxError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Retry(Option<Duration>),
    Snooze(Duration),
    Discard,
    Dead,
    Undecodable,
}

impl Failure {
    /// Retry by the handler's policy.
    #[must_use]
    pub fn retry(error: impl Into<BoxError>) -> Self {
        Self::with(Next::Retry(None), error)
    }

    /// Retry after `delay`, whatever the policy says. The attempt is charged.
    #[must_use]
    pub fn retry_in(delay: Duration, error: impl Into<BoxError>) -> Self {
        Self::with(Next::Retry(Some(delay)), error)
    }

    /// Not yet: run again after `delay`, without charging an attempt.
    #[must_use]
    pub fn snooze(delay: Duration) -> Self {
        Self::with(Next::Snooze(delay), "snoozed")
    }

    /// Delete the message: it is not wanted any more.
    #[must_use]
    pub fn discard(error: impl Into<BoxError>) -> Self {
        Self::with(Next::Discard, error)
    }

    /// Make it a dead letter now: no retry can help.
    #[must_use]
    pub fn dead(error: impl Into<BoxError>) -> Self {
        Self::with(Next::Dead, error)
    }

    pub(crate) fn undecodable(error: impl Into<BoxError>) -> Self {
        Self::with(Next::Undecodable, error)
    }

    fn with(next: Next, error: impl Into<BoxError>) -> Self {
        Self {
            next,
            error: error.into(),
        }
    }

    /// Why it failed.
    #[must_use]
    pub fn error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.error
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::retry(error)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("next", &self.next)
            .field("error", &self.error)
            .finish()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// Says what shall happen on an error, at the place where it is met.
///
/// It takes every error that converts into `Box<dyn Error + Send + Sync>`: types that implement
/// [`Error`](std::error::Error), that box itself, `anyhow::Error`, `String` and `&str`. A
/// `Box<dyn Error>` that is not `Send + Sync` cannot be kept with a message; pass on its text.
///
/// ```
/// # use std::time::Duration;
/// use outbox_core::OrFail;
///
/// fn parse(text: &str) -> Result<u16, std::num::ParseIntError> { text.parse() }
/// fn look_up(sku: u16) -> Result<u32, String> { Err(format!("there is no {sku}")) }
/// fn charge(cents: u32) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
///     Err(format!("cannot charge {cents}").into())
/// }
/// fn print(cents: u32) -> Result<(), Box<dyn std::error::Error>> {
///     Err(format!("cannot print {cents}").into())
/// }
///
/// async fn handler(text: String) -> outbox_core::Result {
///     let sku = parse(&text)?;                                         // an `Error`
///     let cents = look_up(sku).or_dead()?;                             // a `String`
///     charge(cents).or_retry_in(Duration::from_secs(300))?;            // `Send + Sync`
///     print(cents).map_err(|error| error.to_string()).or_retry()?;     // neither
///     Ok(())
/// }
/// ```
///
/// `?` alone does not take a text or a boxed error, because those are no `Error` themselves:
///
/// ```compile_fail,E0277
/// fn charge() -> Result<(), Box<dyn std::error::Error + Send + Sync>> { Ok(()) }
///
/// async fn handler(_: ()) -> outbox_core::Result {
///     charge()?; // `charge().or_retry()?` compiles
///     Ok(())
/// }
/// ```
pub trait OrFail<T> {
    /// On an error, retry by the handler's policy: what `?` does for types that implement
    /// [`Error`](std::error::Error).
    ///
    /// # Errors
    /// The failure.
    fn or_retry(self) -> Result<T>;
    /// On an error, retry after `delay`.
    ///
    /// # Errors
    /// The failure.
    fn or_retry_in(self, delay: Duration) -> Result<T>;
    /// On an error, make the message a dead letter.
    ///
    /// # Errors
    /// The failure.
    fn or_dead(self) -> Result<T>;
    /// On an error, delete the message.
    ///
    /// # Errors
    /// The failure.
    fn or_discard(self) -> Result<T>;
}

impl<T, E: Into<BoxError>> OrFail<T> for std::result::Result<T, E> {
    fn or_retry(self) -> Result<T> {
        self.map_err(Failure::retry)
    }

    fn or_retry_in(self, delay: Duration) -> Result<T> {
        self.map_err(|error| Failure::retry_in(delay, error))
    }

    fn or_dead(self) -> Result<T> {
        self.map_err(Failure::dead)
    }

    fn or_discard(self) -> Result<T> {
        self.map_err(Failure::discard)
    }
}

/// What a handler may return: `()`, an [`Outcome`], or a `Result` of these. Not `bool` and not
/// `Option`: what they mean is easy to get wrong.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "not an outcome",
    note = "return `outbox::Result`, `outbox::Outcome` or `()`"
)]
pub trait IntoOutcome {
    /// What it means for the message.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Outcome::Done
    }
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

impl IntoOutcome for Failure {
    fn into_outcome(self) -> Outcome {
        let error = self.error;
        match self.next {
            Next::Retry(after) => Outcome::Retry { after, error },
            Next::Snooze(delay) => Outcome::Snooze(delay),
            Next::Discard => Outcome::Discard { error },
            Next::Dead => Outcome::Dead { error },
            Next::Undecodable => Outcome::Undecodable { error },
        }
    }
}

impl<T: IntoOutcome, E: Into<Failure>> IntoOutcome for std::result::Result<T, E> {
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(value) => value.into_outcome(),
            Err(error) => error.into().into_outcome(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io() -> std::io::Error {
        std::io::Error::other("disk")
    }

    #[test]
    fn question_mark_means_retry_by_policy() {
        fn fails() -> Result {
            Err(io())?;
            Ok(())
        }
        assert!(matches!(
            fails().into_outcome(),
            Outcome::Retry { after: None, .. }
        ));
    }

    #[test]
    fn what_is_no_error_type_is_retried_by_policy_when_told_so() {
        fn retried<E: Into<BoxError>>(error: E) -> String {
            let answer: std::result::Result<(), E> = Err(error);
            match answer.or_retry().into_outcome() {
                Outcome::Retry { after: None, error } => error.to_string(),
                other => panic!("{other:?}"),
            }
        }
        let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(io());
        assert_eq!(retried(boxed), "disk");
        assert_eq!(retried(String::from("no paper")), "no paper");
        assert_eq!(retried("no ink"), "no ink");
        assert_eq!(retried(io()), "disk");
        assert_eq!(Ok::<_, String>(7).or_retry().ok(), Some(7));
    }

    #[test]
    fn a_boxed_error_can_still_be_told_by_its_type() {
        let boxed: BoxError = Box::new(io());
        let failure = Err::<(), _>(boxed).or_retry().expect_err("it failed");
        assert!(failure.error().is::<std::io::Error>());
    }

    #[test]
    fn each_failure_says_what_happens_next() {
        let second = Duration::from_secs(1);
        assert!(matches!(
            Err::<(), _>(io()).or_retry_in(second).into_outcome(),
            Outcome::Retry { after: Some(after), .. } if after == second
        ));
        assert!(matches!(
            Err::<(), _>(io()).or_dead().into_outcome(),
            Outcome::Dead { .. }
        ));
        assert!(matches!(
            Err::<(), _>(io()).or_discard().into_outcome(),
            Outcome::Discard { .. }
        ));
        assert!(matches!(
            Failure::snooze(second).into_outcome(),
            Outcome::Snooze(_)
        ));
        assert!(matches!(Ok::<_, Failure>(()).into_outcome(), Outcome::Done));
        assert!(matches!(
            Ok::<_, Failure>(Outcome::Snooze(second)).into_outcome(),
            Outcome::Snooze(_)
        ));
    }
}
