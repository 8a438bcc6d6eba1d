//! Extractors: the types a handler may name as parameters after its payload.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_listener::Event;
use futures_util::future::BoxFuture;

use super::Requirements;
use super::context::Context;
use super::failure::Failure;
use crate::error::{Error, ErrorKind};
use crate::lease::{Held, LeaseToken};
use crate::message::{Headers, MessageId};
use crate::runtime::Runtime;

/// A type a handler may name as a parameter.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a parameter of a handler",
    label = "not an extractor",
    note = "the first parameter is the payload; the others are `Data<T>`, `Lease`, `Attempt`, `Headers`, `MessageId`, `Blocking`, `Context`, or types that implement `FromContext`"
)]
pub trait FromContext: Sized {
    /// Takes it from the context of a run.
    ///
    /// # Errors
    /// A failure, which becomes the outcome of the run.
    fn from_context(context: &Context) -> Result<Self, Failure>;

    /// Notes the `Data<T>` this needs.
    fn requires(requirements: &mut Requirements) {
        let _ = requirements;
    }
}

impl FromContext for Context {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        Ok(context.clone())
    }
}

/// A value given to the worker with `.data(value)`, shared by all runs.
///
/// ```
/// # struct Smtp;
/// use outbox_core::Data;
///
/// async fn welcome(user: String, Data(smtp): Data<Smtp>) { drop((user, smtp)) }
/// ```
#[derive(Debug)]
pub struct Data<T>(pub Arc<T>);

impl<T> Data<T> {
    /// Wraps a value, to call a handler by hand.
    pub fn new(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T> Clone for Data<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Data<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Send + Sync + 'static> FromContext for Data<T> {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        context.data().find().map(Self).ok_or_else(|| {
            Failure::from(Error::new(
                ErrorKind::MissingData,
                "run",
                format!("there is no Data<{}>", std::any::type_name::<T>()),
            ))
        })
    }

    fn requires(requirements: &mut Requirements) {
        requirements.data::<T>();
    }
}

/// The lease under which a message runs.
///
/// The worker drops the handler's future when the lease is lost; code that cannot be dropped
/// (a blocking call, another task) waits for [`lost`](Self::lost) or asks [`is_lost`](Self::is_lost).
#[derive(Clone)]
pub struct Lease {
    held: Held,
    fence: u32,
    loss: Arc<Loss>,
}

#[derive(Default)]
struct Loss {
    lost: AtomicBool,
    event: Event,
}

impl Lease {
    /// A lease on `held`, delivered for the `fence`-th time. The worker makes these; so may a
    /// test of a handler.
    #[must_use]
    pub fn new(held: Held, fence: u32) -> Self {
        Self {
            held,
            fence,
            loss: Arc::default(),
        }
    }

    /// The token that holds the message.
    #[must_use]
    pub const fn token(&self) -> LeaseToken {
        self.held.token
    }

    /// The message and its token.
    #[must_use]
    pub const fn held(&self) -> Held {
        self.held
    }

    /// A number that grows with every delivery of this message: an outside store that remembers
    /// the largest one it saw, and refuses smaller ones, is safe from a former holder. After a
    /// failover that loses committed transactions it may repeat.
    #[must_use]
    pub const fn fence(&self) -> u32 {
        self.fence
    }

    /// Whether the lease is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.loss.lost.load(Ordering::Acquire)
    }

    /// Completes when the lease is lost. Cancel safe.
    pub async fn lost(&self) {
        loop {
            let listener = self.loss.event.listen();
            if self.is_lost() {
                return;
            }
            listener.await;
        }
    }

    /// Marks the lease as lost, and tells everybody who waits for that.
    pub fn lose(&self) {
        self.loss.lost.store(true, Ordering::Release);
        self.loss.event.notify(usize::MAX);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("held", &self.held)
            .field("fence", &self.fence)
            .field("lost", &self.is_lost())
            .finish()
    }
}

impl FromContext for Lease {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        Ok(context.lease().clone())
    }
}

/// Which attempt this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Counted from 1.
    pub number: u16,
    /// How many there are in all.
    pub of: u16,
}

impl Attempt {
    /// Whether a failure of this attempt makes the message a dead letter.
    #[must_use]
    pub const fn is_last(self) -> bool {
        self.number >= self.of
    }
}

impl FromContext for Attempt {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        let message = context.message();
        Ok(Self {
            number: message.attempt,
            of: message.max_attempts,
        })
    }
}

impl FromContext for Headers {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        Ok(context.message().headers.clone())
    }
}

impl FromContext for MessageId {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        Ok(context.message().id)
    }
}

/// Runs blocking code on the worker's runtime, away from its async tasks.
#[derive(Clone)]
pub struct Blocking(Arc<dyn Runtime>);

impl Blocking {
    /// Runs `work` to its end, even if the returned future is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Blocking`] if `work` panicked.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Error>> {
        let (sender, receiver) = futures_channel::oneshot::channel();
        // A panic of `work` drops the sender, which is how the receiver learns of it.
        self.0.spawn_blocking(Box::new(move || {
            let _ = sender.send(work());
        }));
        Box::pin(async move {
            receiver
                .await
                .map_err(|_| Error::new(ErrorKind::Blocking, "run", "the blocking code panicked"))
        })
    }
}

impl fmt::Debug for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blocking")
    }
}

impl FromContext for Blocking {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        Ok(Self(Arc::clone(context.runtime())))
    }
}
