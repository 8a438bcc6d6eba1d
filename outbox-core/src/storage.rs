//! The storage seam: the verbs a worker speaks and the types it exchanges. The documentation of
//! the trait is the specification a storage is tested against.
//!
//! Enqueueing inside the caller's transaction is not here: it belongs to the producer handle of
//! each backend, which can only write where the caller writes. A message enqueued there exists if
//! and only if that transaction commits (INSERT-12).

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
/// A rule ends with the ids of the properties that check it, in the conformance suite of
/// `outbox-testkit`.
/// - **One clock.** Due times, lease ends and delays are computed and compared by the storage's
///   own clock. Callers send durations. (INSERT-10, LEASE-01, RETRY-01, RETRY-03, RENEW-01)
/// - **Fenced.** `settle` and `renew` change a message only while the presented token holds it:
///   not after a takeover (FENCE-01, FENCE-02), not a second time (FENCE-04), not with a token that
///   never held it (FENCE-06) or held an earlier delivery of it (FENCE-10). So does `exchange`, by
///   which workers settle most of the time (FENCE-11). They return what they changed; a message that is missing from the answer was lost, or never existed, which is data
///   and not an error (FENCE-05, FENCE-07).
/// - **A lease holds until somebody else takes it.** After its end, and until a claim of expired
///   leases takes the message, the holder's settle and renew are still accepted (FENCE-03,
///   RENEW-05). Where such a settle and a takeover meet, one of them gets the message (FENCE-09).
/// - **Atomic calls.** Each call takes effect as a whole or not at all. A call that failed with a
///   transient error may have taken effect: the worker asks again, with the same token.
/// - **Cancellation.** Dropping a returned future leaves no half-written call and no unusable
///   connection behind; the call may or may not have taken effect. (DROP-01 `enqueue`, DROP-02 and
///   DROP-03 `claim`, DROP-04 `settle`, DROP-05 `renew`, DROP-06 `exchange`, WAKE-03 `wake_ups`)
/// - **Large calls.** A claim asks for up to 500 messages, outcomes come up to 1,000 in a call, and a
///   renewal speaks of all that a worker holds: up to 1,000 unless it is told otherwise, and those
///   whose outcomes are not written yet (CALL-02).
///
/// Methods take `&self` and run concurrently. `renew` in particular is called from a thread with a
/// reactor of its own, and must not wait for a `claim` or `settle` (RENEW-07), nor for the threads on
/// which they run: it wants a connection of its own, opened where it is called.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Checks that the storage can be used, before the first claim (CALL-01).
    ///
    /// # Errors
    /// [`ErrorKind::Unmigrated`](crate::ErrorKind::Unmigrated) and others that end the worker, or
    /// a transient error, after which the worker asks again.
    async fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Writes messages in a transaction of its own, in order. For tools and tests; a producer
    /// uses its backend's handle, inside its own transaction. Writing none is allowed (INSERT-09).
    ///
    /// Ids are positive and grow in the order of the messages (INSERT-01). Payloads are kept byte
    /// for byte (INSERT-02), as are all other fields (INSERT-03, INSERT-04) and the exact name of
    /// the queue (INSERT-11). Names are up to [`MAX_NAME_BYTES`](crate::MAX_NAME_BYTES) long, headers
    /// up to [`MAX_HEADER_BYTES`](crate::MAX_HEADER_BYTES).
    ///
    /// Returns one entry for each message: `None` where a live message of the same queue and exactly
    /// this key (INSERT-13) exists, in which case nothing is written for it, and the others are (INSERT-05, INSERT-07,
    /// INSERT-08). A message is live until it is done, discarded, cancelled or a dead letter
    /// (INSERT-06).
    async fn enqueue(&self, messages: Vec<NewMessage>) -> Result<Vec<Option<MessageId>>, Error>;

    /// Leases messages; see [`ClaimRequest`]. A message that is leased is claimed by nobody else
    /// (LEASE-02, LEASE-08, EXPIRE-09). A claim sets the lease, counts a delivery and an attempt or
    /// a loss, and changes nothing else (LEASE-01, EXPIRE-01, RETRY-09).
    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error>;

    /// Writes outcomes where the token still holds; see [`Settled`]. A message is at most once in
    /// `settlements`, each has an outcome of its own (RETRY-07, DEAD-04), and there may be none
    /// (FENCE-08).
    ///
    /// What each outcome means is said at [`Verdict`](crate::Verdict): `Done` and `Discard`
    /// (RETRY-06), `Retry` (RETRY-01, RETRY-02, RETRY-08, RETRY-09), `Snooze` (RETRY-03), `Release`
    /// (RETRY-04, RETRY-05), `Dead` (DEAD-01, DEAD-02, DEAD-05). A dead letter is claimed by nobody (DEAD-03).
    async fn settle(&self, settlements: &[Settlement]) -> Result<Settled, Error>;

    /// Sets the end of each lease to now plus its `lease_ttl`, where the token still holds, and
    /// changes nothing else (RENEW-01, RENEW-06). Never shortens a lease (RENEW-02) and never brings
    /// back a settled message (RENEW-03). A message is at most once in `renewals`; there may be
    /// none (FENCE-08).
    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed, Error>;

    /// Settles and claims, in one round trip where the storage can do that. The two parts may
    /// take effect one without the other (LEASE-14), and each does all that it does by itself
    /// (LEASE-16, RETRY-10, FENCE-11). Workers claim in no other way.
    async fn exchange(&self, settlements: &[Settlement], request: &ClaimRequest) -> Exchange {
        let settled = if settlements.is_empty() {
            Ok(Settled::default())
        } else {
            self.settle(settlements).await
        };
        Exchange::new(settled, self.claim(request).await)
    }

    /// How many exchanges a worker may have under way at the same time, from 1 to 16; default 1. More
    /// are worth it where each has a connection of its own, and the storage works on several at
    /// once: a worker has more than one under way with a backlog, where a claim is due while outcomes
    /// wait for their answer, and where outcomes wait while an exchange takes long. Asked once, when a
    /// worker starts.
    fn concurrent_exchanges(&self) -> usize {
        1
    }

    /// How many of [`concurrent_exchanges`](Self::concurrent_exchanges) are worth it at present; all by
    /// default. Fewer while other workers work off the same backlog, if claims side by side pass each
    /// other's messages. Asked each time the worker may begin one, so it must be cheap. More are begun all
    /// the same when one takes long, which must not hold up the rest.
    fn worthwhile_exchanges(&self) -> usize {
        self.concurrent_exchanges()
    }

    /// Tidies up after what was settled, where a database leaves that to its users: deletes no message
    /// and changes none. Called every five seconds by a worker that has settled something since the
    /// last time, and up to four times a second while it [`is_untidy`](Self::is_untidy), beside all other
    /// calls, which it must not hold up; and by many workers, of which one at a time does the work. The
    /// worker that ends drops it. The default has nothing to do.
    ///
    /// # Errors
    /// Errors are logged, and the worker calls again. What cannot get better is
    /// [`Housekeeping::NotPermitted`].
    async fn housekeep(&self) -> Result<Housekeeping, Error> {
        Ok(Housekeeping::NotNeeded)
    }

    /// Whether so much is to be tidied up that [`housekeep`](Self::housekeep) should come before its time;
    /// never by default. Asked four times a second by a worker that settles, so it must be cheap.
    fn is_untidy(&self) -> bool {
        false
    }

    /// Hints that something may have become available in these queues (WAKE-01), to each stream
    /// by itself (WAKE-02). Hints may be lost, repeated or wrong: the worker polls as well. But each
    /// one is a claim, so a stream is silent while nothing happens (WAKE-04). The stream may use the
    /// runtime's timers; it never ends, and after an interruption of its own it gives one hint. The
    /// default never hints.
    fn wake_ups(&self, queues: Vec<Arc<str>>, runtime: Arc<dyn Runtime>) -> BoxStream<'static, ()> {
        drop((queues, runtime));
        Box::pin(stream::pending())
    }
}

/// Which messages a claim takes. Complete, as [`Verdict`](crate::Verdict) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Due messages without a lease (LEASE-04, EXPIRE-02), ordered by priority, due time and id
    /// within a queue (LEASE-05, LEASE-06). Charges an attempt. While claims come back full, one that
    /// somebody else puts before those already claimed may be left for a while, and is then claimed
    /// in its place.
    Pending,
    /// Messages whose lease has expired (EXPIRE-03), oldest end first within a queue (EXPIRE-04);
    /// between queues in any order. Counts a lease loss instead of an attempt; those with
    /// [`MAX_LEASE_LOSSES`](crate::MAX_LEASE_LOSSES) losses, or on their last attempt, become dead
    /// letters in the same step (see [`DeadReason::of_expired_lease`]; EXPIRE-06, EXPIRE-07,
    /// EXPIRE-08) and do not hold up the others (EXPIRE-10).
    ///
    /// A message that was lost before is claimed alone: either it is the only one of the answer,
    /// or it is left for a later claim. (EXPIRE-05)
    Expired,
}

/// A queue to claim from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueLease {
    /// The queue.
    pub queue: Arc<str>,
    /// How long its messages are leased for: from [`MIN_LEASE_TTL`](crate::MIN_LEASE_TTL) to
    /// [`MAX_LEASE_TTL`](crate::MAX_LEASE_TTL). (LEASE-10, EXPIRE-12)
    pub lease_ttl: Duration,
    /// The most attempts that a handler of this queue allows, where one does not leave that to
    /// the message. A message whose lease expired is on its last attempt only if both say so. (EXPIRE-11)
    pub max_attempts: Option<u16>,
}

impl QueueLease {
    /// A queue whose messages say themselves how many attempts they have.
    #[must_use]
    pub fn new(queue: impl Into<Arc<str>>, lease_ttl: Duration) -> Self {
        Self {
            queue: queue.into(),
            lease_ttl,
            max_attempts: None,
        }
    }
}

/// What to claim.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClaimRequest {
    /// The queues, in the order in which they are served (LEASE-03). Others are left alone
    /// (LEASE-07).
    pub queues: Vec<QueueLease>,
    /// The token of the new leases, drawn by the caller before it sends this.
    pub token: LeaseToken,
    /// How many messages at most, over all queues, at least 1. (LEASE-03, EXPIRE-13)
    pub limit: usize,
    /// Which messages.
    pub source: Source,
    /// An earlier call with this token failed, and may have taken effect: return what it leased,
    /// at most `limit` messages, with leases that begin anew, and claim nothing new if there is
    /// any. What it leased beyond the limit is released. A worker never raises the limit of a
    /// token, so that an earlier call that comes late releases nothing that runs. (LEASE-11,
    /// LEASE-12, LEASE-13, LEASE-15)
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
    /// In an answer without messages: when the next message without a lease is due, in the queues
    /// asked for. Not asked for otherwise, so that messages do not wait for it. (LEASE-09)
    pub next_due: Option<Duration>,
    /// In such an answer: when the next lease of anybody ends, in these queues. (LEASE-09, EXPIRE-10)
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
#[non_exhaustive]
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

impl DeadLettered {
    /// Names the message and the reason.
    #[must_use]
    pub const fn new(id: MessageId, queue: Arc<str>, kind: Arc<str>, reason: DeadReason) -> Self {
        Self {
            id,
            queue,
            kind,
            reason,
        }
    }
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

    /// Whether its lease was lost before: it may be what kills its holders.
    pub(crate) const fn is_suspect(&self) -> bool {
        self.lease_losses > 0
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

/// What a settle answered. A settlement in neither list was refused: its token no longer holds
/// the message, which is unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settled {
    /// Messages whose outcome is written, in any order.
    pub written: Vec<MessageId>,
    /// Messages that somebody else keeps locked, so that nothing was written and nothing is known
    /// about their leases: to be asked again. A storage that has no such locks leaves it empty.
    pub busy: Vec<MessageId>,
}

impl Settled {
    /// An answer with these survivors, and none busy.
    #[must_use]
    pub const fn new(written: Vec<MessageId>) -> Self {
        Self {
            written,
            busy: Vec::new(),
        }
    }
}

/// A lease to renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Renewal {
    /// What is held.
    pub held: Held,
    /// How long from now it shall hold; as in [`QueueLease`].
    pub lease_ttl: Duration,
}

impl Renewal {
    /// Renews `held` until `lease_ttl` from now.
    #[must_use]
    pub const fn new(held: Held, lease_ttl: Duration) -> Self {
        Self { held, lease_ttl }
    }
}

/// What a renew answered. A renewal in neither list was busy: somebody works on the message at
/// this moment, and the next renew will tell. (RENEW-04)
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
#[non_exhaustive]
pub struct Exchange {
    /// What `settle` answered.
    pub settled: Result<Settled, Error>,
    /// What `claim` answered.
    pub claim: Result<Claim, Error>,
}

impl Exchange {
    /// Both answers.
    #[must_use]
    pub const fn new(settled: Result<Settled, Error>, claim: Result<Claim, Error>) -> Self {
        Self { settled, claim }
    }
}

/// What a storage did to tidy up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Housekeeping {
    /// Nothing: there was nothing to do, or too little to be worth it.
    NotNeeded,
    /// Nothing: somebody else is at it.
    Elsewhere,
    /// What it had to.
    Done {
        /// How long that took, by this process's clock.
        took: Duration,
        /// How many entries are left that cannot be removed yet, because somebody may still see them.
        left: u64,
    },
    /// Nothing: its user may not. The worker says so once, and does not call again.
    NotPermitted {
        /// What an operator can do about it, in one line.
        advice: String,
    },
}

/// What became of a request to cancel a message. Where a storage offers that, a cancelled message
/// frees its key (CANCEL-05).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cancel {
    /// The message is deleted and will not run again (CANCEL-01). A lease that had expired does not
    /// protect it; its holder's settle changes nothing (CANCEL-03).
    Cancelled,
    /// Somebody holds the message under a lease that has not expired; it is unchanged. (CANCEL-02)
    Leased,
    /// There is no live message of this id or key: it was settled, or never existed. (CANCEL-04)
    NotFound,
}
