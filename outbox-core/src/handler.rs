//! The handler seam: what a `#[job]` or `#[subscriber]` expands to, what a run is given, and what
//! it may answer. How a run is started and supervised is in `worker/execute.rs`.

mod context;
mod extract;
mod failure;

use std::any::TypeId;
use std::time::Duration;

use futures_util::future::BoxFuture;

pub use context::{Context, DataMap};
pub use extract::{Attempt, Blocking, Data, FromContext, Lease};
pub use failure::{Failure, IntoOutcome, OrFail, Result};

use crate::lease::DEFAULT_LEASE_TTL;
use crate::outcome::Outcome;
use crate::retry::RetryPolicy;

/// A function that handles messages of one queue. `#[job]` and `#[subscriber]` implement it for
/// a type of the function's own name; writing it by hand takes the same few lines:
///
/// ```
/// use outbox_core::{BoxFuture, Context, Definition, Handler, IntoOutcome, Outcome, Requirements};
///
/// async fn greet(name: String) -> outbox_core::Result {
///     println!("hello {name}");
///     Ok(())
/// }
///
/// struct Greet;
///
/// impl Handler for Greet {
///     fn definition() -> Definition {
///         Definition::new("greet", "default").kinds(vec!["greet".into()])
///     }
///     fn requires(_: &mut Requirements) {}
///     fn call(context: Context) -> BoxFuture<'static, Outcome> {
///         Box::pin(async move {
///             match context.decode::<String>() {
///                 Ok(name) => greet(name).await.into_outcome(),
///                 Err(failure) => failure.into_outcome(),
///             }
///         })
///     }
/// }
/// # let _ = Greet::definition();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "this cannot be registered",
    note = "put `#[job]` or `#[subscriber(queue = \"..\")]` on the function and register it by its name"
)]
pub trait Handler: 'static {
    /// What it handles, and how.
    fn definition() -> Definition;
    /// Notes the `Data<T>` it asks for, so that a missing one is found before the first claim.
    fn requires(requirements: &mut Requirements);
    /// Runs it once.
    fn call(context: Context) -> BoxFuture<'static, Outcome>;
}

/// What a handler handles, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Definition {
    /// The function's name, for logs.
    pub name: &'static str,
    /// The queue it listens to.
    pub queue: &'static str,
    /// The kinds it understands.
    pub kinds: Vec<std::borrow::Cow<'static, str>>,
    /// How long a claim holds a message before the heartbeat must have renewed it.
    pub lease_ttl: Duration,
    /// Attempts, where the handler and not the message decides.
    pub max_attempts: Option<u16>,
    /// How long one run may take; unlimited by default.
    pub timeout: Option<Duration>,
    /// When a failed attempt runs again.
    pub retry: RetryPolicy,
    /// Where it is written, as `file:line`.
    pub location: &'static str,
}

impl Definition {
    /// A definition with the documented defaults.
    #[must_use]
    pub fn new(name: &'static str, queue: &'static str) -> Self {
        Self {
            name,
            queue,
            kinds: Vec::new(),
            lease_ttl: DEFAULT_LEASE_TTL,
            max_attempts: None,
            timeout: None,
            retry: RetryPolicy::default(),
            location: "",
        }
    }

    /// Sets the kinds it understands.
    #[must_use]
    pub fn kinds(mut self, kinds: Vec<std::borrow::Cow<'static, str>>) -> Self {
        self.kinds = kinds;
        self
    }

    /// Sets the lease.
    #[must_use]
    pub const fn lease_ttl(mut self, lease_ttl: Duration) -> Self {
        self.lease_ttl = lease_ttl;
        self
    }

    /// Sets the attempts, whatever the message says.
    #[must_use]
    pub const fn max_attempts(mut self, max_attempts: u16) -> Self {
        self.max_attempts = Some(max_attempts);
        self
    }

    /// Sets the limit of one run.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the retry policy.
    #[must_use]
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Sets where it is written.
    #[must_use]
    pub const fn location(mut self, location: &'static str) -> Self {
        self.location = location;
        self
    }
}

/// The `Data<T>` a handler asks for.
#[derive(Debug, Default)]
pub struct Requirements(Vec<(TypeId, &'static str)>);

impl Requirements {
    /// Notes that `Data<T>` is asked for.
    pub fn data<T: Send + Sync + 'static>(&mut self) {
        self.0.push((TypeId::of::<T>(), std::any::type_name::<T>()));
    }

    /// The types noted so far, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (TypeId, &'static str)> + '_ {
        self.0.iter().copied()
    }
}
