//! When to run a failed message again. Pure: the random number is an argument.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a custom retry policy is asked about.
#[derive(Debug)]
#[non_exhaustive]
pub struct FailedAttempt<'a> {
    /// The attempt that failed, counted from 1.
    pub attempt: u16,
    /// How many attempts the message has in all.
    pub max_attempts: u16,
    /// Time since the message was enqueued, by the storage's clock when it was claimed.
    pub age: Duration,
    /// Why it failed. It can be downcast to the handler's own error type.
    pub error: &'a (dyn std::error::Error + 'static),
}

impl<'a> FailedAttempt<'a> {
    /// Describes a failed attempt, for tests of custom policies.
    #[must_use]
    pub const fn new(
        attempt: u16,
        max_attempts: u16,
        age: Duration,
        error: &'a (dyn std::error::Error + 'static),
    ) -> Self {
        Self {
            attempt,
            max_attempts,
            age,
            error,
        }
    }
}

/// A custom policy: the delay before the next attempt, or `None` to give up now.
pub type CustomPolicy = dyn Fn(&FailedAttempt<'_>) -> Option<Duration> + Send + Sync;

/// How long to wait after a failed attempt. The default is [`RetryPolicy::exponential`] from one
/// second, doubled each time, at most five minutes, with full jitter.
#[derive(Clone)]
#[non_exhaustive]
pub enum RetryPolicy {
    /// A random delay from zero to `initial * factor^(attempt - 1)`, at most `cap`: "full jitter",
    /// which spreads retries best (AWS Architecture Blog, *Exponential Backoff And Jitter*, 2015).
    Exponential {
        /// Longest delay after the first attempt.
        initial: Duration,
        /// Growth for each further attempt.
        factor: f64,
        /// Longest delay of all.
        cap: Duration,
    },
    /// `initial + step * (attempt - 1)`.
    Linear {
        /// Delay after the first attempt.
        initial: Duration,
        /// Growth for each further attempt.
        step: Duration,
    },
    /// The same delay each time; zero retries at once.
    Fixed(Duration),
    /// Graphile Worker's curve, `exp(min(10, attempt))` seconds: 2.7 s, 7.4 s, 20 s, ... 6 h.
    Graphile,
    /// No retry: a failed attempt is the last one.
    Never,
    /// The caller's function decides.
    Custom(Arc<CustomPolicy>),
}

/// No delay is longer than 100 years: arithmetic on database timestamps stays in range.
pub const MAX_DELAY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl RetryPolicy {
    /// Exponential with full jitter, doubling.
    #[must_use]
    pub const fn exponential(initial: Duration, cap: Duration) -> Self {
        Self::Exponential {
            initial,
            factor: 2.0,
            cap,
        }
    }

    /// A policy of the caller's own.
    #[must_use]
    pub fn custom(
        policy: impl Fn(&FailedAttempt<'_>) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        Self::Custom(Arc::new(policy))
    }

    /// The delay before the next attempt, or `None` to give up. `random` is uniform in `0.0..1.0`.
    ///
    /// Total: no input overflows or panics, except that a custom policy's own panic passes
    /// through (the worker catches it and uses the default policy).
    #[must_use]
    pub fn delay(&self, failed: &FailedAttempt<'_>, random: f64) -> Option<Duration> {
        let earlier = u32::from(failed.attempt.saturating_sub(1));
        let delay = match self {
            Self::Exponential {
                initial,
                factor,
                cap,
            } => {
                let growth = factor.max(1.0).powi(earlier.min(1_000).cast_signed());
                let limit = clamp_seconds(initial.as_secs_f64() * growth).min(*cap);
                limit.mul_f64(random.clamp(0.0, 1.0))
            }
            Self::Linear { initial, step } => initial.saturating_add(step.saturating_mul(earlier)),
            Self::Fixed(delay) => *delay,
            Self::Graphile => clamp_seconds(f64::from(failed.attempt.clamp(1, 10)).exp()),
            Self::Never => return None,
            Self::Custom(policy) => policy(failed)?,
        };
        Some(delay.min(MAX_DELAY))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::exponential(Duration::from_secs(1), Duration::from_secs(300))
    }
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exponential {
                initial,
                factor,
                cap,
            } => write!(f, "Exponential({initial:?} x{factor}, cap {cap:?})"),
            Self::Linear { initial, step } => write!(f, "Linear({initial:?} + {step:?})"),
            Self::Fixed(delay) => write!(f, "Fixed({delay:?})"),
            Self::Graphile => f.write_str("Graphile"),
            Self::Never => f.write_str("Never"),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

fn clamp_seconds(seconds: f64) -> Duration {
    if seconds.is_nan() || seconds >= MAX_DELAY.as_secs_f64() {
        return MAX_DELAY;
    }
    Duration::from_secs_f64(seconds.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delay(policy: &RetryPolicy, attempt: u16, random: f64) -> Option<Duration> {
        let error = std::io::Error::other("no");
        policy.delay(
            &FailedAttempt::new(attempt, 10, Duration::ZERO, &error),
            random,
        )
    }

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn the_default_doubles_from_one_second_to_five_minutes() {
        let policy = RetryPolicy::default();
        let longest: Vec<_> = (1..=10)
            .map(|attempt| delay(&policy, attempt, 1.0))
            .collect();
        let expected = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300].map(seconds);
        assert_eq!(longest, expected);
    }

    #[test]
    fn full_jitter_reaches_from_zero_to_the_limit() {
        let policy = RetryPolicy::default();
        assert_eq!(delay(&policy, 5, 0.0), seconds(0));
        assert_eq!(delay(&policy, 5, 0.5), seconds(8));
        assert_eq!(delay(&policy, 5, 1.0), seconds(16));
    }

    #[test]
    fn linear_fixed_and_graphile_curves() {
        let linear = RetryPolicy::Linear {
            initial: Duration::from_secs(5),
            step: Duration::from_secs(3),
        };
        assert_eq!(delay(&linear, 1, 0.3), seconds(5));
        assert_eq!(delay(&linear, 4, 0.3), seconds(14));
        assert_eq!(
            delay(&RetryPolicy::Fixed(Duration::from_secs(7)), 9, 0.3),
            seconds(7)
        );
        let graphile: Vec<u64> = [1, 2, 3, 10, 25]
            .into_iter()
            .filter_map(|attempt| delay(&RetryPolicy::Graphile, attempt, 0.3))
            .map(|delay| delay.as_secs())
            .collect();
        assert_eq!(graphile, [2, 7, 20, 22_026, 22_026]);
    }

    #[test]
    fn extreme_input_saturates_instead_of_overflowing() {
        let wild = RetryPolicy::Exponential {
            initial: Duration::MAX,
            factor: f64::MAX,
            cap: Duration::MAX,
        };
        assert_eq!(delay(&wild, u16::MAX, 1.0), Some(MAX_DELAY));
        let nan = RetryPolicy::Exponential {
            initial: Duration::from_secs(1),
            factor: f64::NAN,
            cap: Duration::from_secs(9),
        };
        assert_eq!(delay(&nan, 3, 1.0), seconds(1));
        let linear = RetryPolicy::Linear {
            initial: Duration::MAX,
            step: Duration::MAX,
        };
        assert_eq!(delay(&linear, u16::MAX, 1.0), Some(MAX_DELAY));
        assert_eq!(delay(&RetryPolicy::default(), 0, 1.0), seconds(1));
    }

    #[test]
    fn a_custom_policy_sees_the_error_and_may_give_up() {
        let policy = RetryPolicy::custom(|failed| {
            failed
                .error
                .downcast_ref::<std::io::Error>()
                .map(|_| Duration::from_secs(u64::from(failed.attempt)))
        });
        assert_eq!(delay(&policy, 3, 0.9), seconds(3));
        let error = std::fmt::Error;
        let other = FailedAttempt::new(3, 10, Duration::ZERO, &error);
        assert_eq!(policy.delay(&other, 0.9), None);
        assert_eq!(delay(&RetryPolicy::Never, 1, 0.9), None);
    }
}
