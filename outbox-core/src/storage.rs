//! The storage seam: the verbs a worker speaks and the types it exchanges. The documentation of
//! the trait is the specification a storage is tested against.
//!
//! Enqueueing inside the caller's transaction is not here: it belongs to the producer handle of
//! each backend, which can only write where the caller writes.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};

use crate::error::Error;
use crate::lease::{Held, LeaseToken};
use crate::message::{Headers, MessageId, NewMessage};
use crate::outcome::{DeadReason, Settlement};
use crate::runtime::Runtime;

/// Where messages live. Object safe; a worker holds it as `Arc<dyn Storage>`.
///
/// # The contract
/// - **One clock.** Due times, lease ends and delays are computed and compared by the storage's
///   own clock. Callers send durations.
/// - **Fenced.** `settle` and `renew` change a message only while the presented token holds it.
///   They return what they changed; a message that is missing from the answer was lost, which is
///   data and not an error.
/// - **A lease holds until somebody else takes it.** After its end, and until a claim of expired
///   leases takes the message, the holder's settle and renew are still accepted.
/// - **Atomic calls.** Each call takes effect as a whole or not at all. A call that failed with a
///   transient error may have taken effect: the worker asks again, with the same token.
/// - **Cancellation.** Dropping a returned future leaves no half-written call and no unusable
///   connection behind; the call may or may not have taken effect.
///
/// Methods take `&self` and run concurrently; `renew` in particular runs on a thread of its own
/// and must not wait for a `claim` or `settle`.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Checks that the storage can be used, before the first claim.
    ///
    /// # Errors
    /// [`ErrorKind::Unmigrated`](crate::ErrorKind::Unmigrated) and others that end the worker, or
    /// a transient error, after which the worker asks again.
    async fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Writes messages in a transaction of its own, in order. For tools and tests; a producer
    /// uses its backend's handle, inside its own transaction.
    ///
    /// Returns one entry for each message: `None` where a live message of the same queue and key
    /// exists, in which case nothing is written for it.
    async fn enqueue(&self, messages: Vec<NewMessage>) -> Result<Vec<Option<MessageId>>, Error>;

    /// Leases messages; see [`ClaimRequest`].
    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error>;

    /// Writes outcomes. Returns the ids whose token still held, in any order: their outcome is
    /// written. The others are unchanged.
    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<MessageId>, Error>;

    /// Sets the end of each lease to now plus its `lease_ttl`, where the token still holds.
    /// Never shortens a lease and never brings back a settled message.
    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed, Error>;

    /// Settles and claims, in one round trip where the storage can do that. The two parts may
    /// take effect one without the other.
    async fn exchange(&self, settlements: &[Settlement], request: &ClaimRequest) -> Exchange {
        let settled = if settlements.is_empty() {
            Ok(Vec::new())
        } else {
            self.settle(settlements).await
        };
        Exchange {
            settled,
            claim: self.claim(request).await,
        }
    }

    /// Hints that something may have become available in these queues. Hints may be lost,
    /// repeated or wrong: the worker polls as well. The stream may use the runtime's timers; it
    /// never ends, and after an interruption of its own it gives one hint. The default never hints.
    fn wake_ups(&self, queues: Vec<Arc<str>>, runtime: Arc<dyn Runtime>) -> BoxStream<'static, ()> {
        drop((queues, runtime));
        Box::pin(stream::pending())
    }
}

/// Which messages a claim takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Due messages without a lease, ordered by priority, due time and id within a queue. Charges
    /// an attempt.
    Pending,
    /// Messages whose lease has expired, oldest end first. Counts a lease loss instead of an
    /// attempt; those with [`MAX_LEASE_LOSSES`](crate::MAX_LEASE_LOSSES) losses, or on their last
    /// attempt, become dead letters in the same step (see [`DeadReason::of_expired_lease`]).
    ///
    /// A message that was lost before is claimed alone: either it is the only one of the answer,
    /// or it is left for a later claim.
    Expired,
}

/// A queue to claim from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueLease {
    /// The queue.
    pub queue: Arc<str>,
    /// How long its messages are leased for.
    pub lease_ttl: Duration,
}

/// What to claim.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClaimRequest {
    /// The queues, in the order in which they are served.
    pub queues: Vec<QueueLease>,
    /// The token of the new leases, drawn by the caller before it sends this.
    pub token: LeaseToken,
    /// How many messages at most, over all queues, at least 1.
    pub limit: usize,
    /// Which messages.
    pub source: Source,
    /// An earlier call with this token failed, and may have taken effect: return what it leased,
    /// and claim nothing new if there is any.
    pub resume: bool,
}

impl ClaimRequest {
    /// A first request under a new token.
    #[must_use]
    pub fn new(queues: Vec<QueueLease>, limit: usize, source: Source) -> Self {
        Self {
            queues,
            token: LeaseToken::random(),
            limit,
            source,
            resume: false,
        }
    }

    /// The same request again, after it failed.
    #[must_use]
    pub fn resumed(mut self) -> Self {
        self.resume = true;
        self
    }
}

/// What a claim answered.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Claim {
    /// The leased messages, in the order in which they should start.
    pub messages: Vec<Claimed>,
    /// Messages that became dead letters instead of being leased.
    pub dead: Vec<DeadLettered>,
    /// In an answer without messages: when the next message without a lease is due. Not asked for
    /// otherwise, so that messages do not wait for it.
    pub next_due: Option<Duration>,
    /// In such an answer: when the next lease of anybody ends.
    pub next_expiry: Option<Duration>,
}

impl Claim {
    /// An answer with these messages and nothing else.
    #[must_use]
    pub fn new(messages: Vec<Claimed>) -> Self {
        Self {
            messages,
            ..Self::default()
        }
    }
}

/// A message that a claim turned into a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLettered {
    /// The message.
    pub id: MessageId,
    /// Its queue.
    pub queue: Arc<str>,
    /// Its kind.
    pub kind: Arc<str>,
    /// Why.
    pub reason: DeadReason,
}

/// A leased message.
#[derive(Clone)]
#[non_exhaustive]
pub struct Claimed {
    /// Its identity.
    pub id: MessageId,
    /// The token that holds it.
    pub token: LeaseToken,
    /// Where it came from.
    pub queue: Arc<str>,
    /// What it is.
    pub kind: Arc<str>,
    /// Its content, byte for byte.
    pub payload: Vec<u8>,
    /// How the content is encoded.
    pub content_type: Arc<str>,
    /// Its headers.
    pub headers: Headers,
    /// The present attempt, counted from 1.
    pub attempt: u16,
    /// How many attempts it has.
    pub max_attempts: u16,
    /// How often its lease was lost since the last settle.
    pub lease_losses: u16,
    /// How often it was claimed: grows with every delivery and is never refunded.
    pub deliveries: u32,
    /// Its deduplication key.
    pub key: Option<String>,
    /// Its group.
    pub group: Option<String>,
    /// The producer's own reference.
    pub tag: Option<String>,
    /// When it was enqueued, by the storage's clock.
    pub created_at: SystemTime,
    /// How long ago that was when it was claimed, by the same clock.
    pub age: Duration,
}

impl Claimed {
    /// A leased message with defaults in every place but these.
    #[must_use]
    pub fn new(held: Held, queue: Arc<str>, kind: Arc<str>, payload: Vec<u8>) -> Self {
        Self {
            id: held.id,
            token: held.token,
            queue,
            kind,
            payload,
            content_type: Arc::from(crate::message::JSON),
            headers: Headers::default(),
            attempt: 1,
            max_attempts: crate::message::DEFAULT_MAX_ATTEMPTS,
            lease_losses: 0,
            deliveries: 1,
            key: None,
            group: None,
            tag: None,
            created_at: SystemTime::UNIX_EPOCH,
            age: Duration::ZERO,
        }
    }

    /// The message and the token that holds it.
    #[must_use]
    pub const fn held(&self) -> Held {
        Held {
            id: self.id,
            token: self.token,
        }
    }
}

impl fmt::Debug for Claimed {
    /// The payload is left out: it may hold personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claimed")
            .field("id", &self.id)
            .field("queue", &self.queue)
            .field("kind", &self.kind)
            .field("payload_bytes", &self.payload.len())
            .field("attempt", &self.attempt)
            .field("max_attempts", &self.max_attempts)
            .field("lease_losses", &self.lease_losses)
            .field("deliveries", &self.deliveries)
            .finish_non_exhaustive()
    }
}

/// A lease to renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// What is held.
    pub held: Held,
    /// How long from now it shall hold.
    pub lease_ttl: Duration,
}

/// What a renew answered. A renewal in neither list was busy: somebody works on the message at
/// this moment, and the next renew will tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Renewed {
    /// Leases that now end later.
    pub renewed: Vec<MessageId>,
    /// Leases that the token no longer holds.
    pub lost: Vec<MessageId>,
}

impl Renewed {
    /// An answer with these survivors and these losses.
    #[must_use]
    pub const fn new(renewed: Vec<MessageId>, lost: Vec<MessageId>) -> Self {
        Self { renewed, lost }
    }
}

/// What an exchange answered.
#[derive(Debug)]
pub struct Exchange {
    /// What `settle` answered.
    pub settled: Result<Vec<MessageId>, Error>,
    /// What `claim` answered.
    pub claim: Result<Claim, Error>,
}

/// What became of a request to cancel a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cancel {
    /// The message is deleted and will not run again. A lease that had expired does not protect
    /// it; its holder's settle changes nothing.
    Cancelled,
    /// Somebody holds the message under a lease that has not expired; it is unchanged.
    Leased,
    /// There is no live message of this id or key: it was settled, or never existed.
    NotFound,
}
