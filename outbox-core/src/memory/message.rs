//! A message as `MemoryStorage` keeps it and shows it to tests: its fields, and what a claim makes
//! of one. Which message is claimed or changed is decided in `memory.rs`.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::lease::LeaseToken;
use crate::message::{Due, Headers, MessageId, NewMessage};
use crate::outcome::DeadReason;
use crate::storage::{ClaimRequest, Claimed, QueueLease};

/// A live message, as a test sees it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryMessage {
    /// Its identity.
    pub id: MessageId,
    /// Where it waits.
    pub queue: Arc<str>,
    /// What it is.
    pub kind: Arc<str>,
    /// Its content.
    pub payload: Vec<u8>,
    /// How the content is encoded.
    pub content_type: Arc<str>,
    /// Its headers.
    pub headers: Headers,
    /// Smaller runs first.
    pub priority: i16,
    /// Its deduplication key.
    pub key: Option<String>,
    /// Its group.
    pub group: Option<String>,
    /// The producer's own reference.
    pub tag: Option<String>,
    /// Attempts charged so far, the running one included.
    pub attempts: u16,
    /// How many attempts it has.
    pub max_attempts: u16,
    /// How often its lease was lost since the last settle.
    pub lease_losses: u16,
    /// How often it was claimed.
    pub deliveries: u32,
    /// When it was enqueued.
    pub created_at: SystemTime,
    /// When it is, or was, available.
    pub due: SystemTime,
    /// Who holds it, and until when; past its end it holds until somebody claims the message.
    pub lease: Option<(LeaseToken, SystemTime)>,
    /// The error of the last failed attempt.
    pub last_error: Option<String>,
}

/// A dead letter, as a test sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryDeadLetter {
    /// The message as it was, without its lease; `last_error` says what went wrong last.
    pub message: MemoryMessage,
    /// Why it was given up.
    pub reason: DeadReason,
    /// When.
    pub died_at: SystemTime,
}

impl MemoryMessage {
    pub(super) fn new(id: MessageId, new: NewMessage, now: SystemTime) -> Self {
        Self {
            id,
            queue: Arc::from(&*new.queue),
            kind: Arc::from(&*new.kind),
            payload: new.payload,
            content_type: Arc::from(&*new.content_type),
            headers: new.headers,
            priority: new.priority,
            key: new.key,
            group: new.group,
            tag: new.tag,
            attempts: 0,
            max_attempts: new.max_attempts,
            lease_losses: 0,
            deliveries: 0,
            created_at: now,
            due: match new.due {
                Due::Now => now,
                Due::After(delay) => super::later(now, delay),
                Due::At(instant) => instant,
            },
            lease: None,
            last_error: None,
        }
    }

    pub(super) fn is_held_by(&self, token: LeaseToken) -> bool {
        self.lease.is_some_and(|(holder, _)| holder == token)
    }

    /// The place of its queue in the request; `None` if it is not served.
    pub(super) fn rank(&self, request: &ClaimRequest) -> Option<usize> {
        let served = |queue: &QueueLease| queue.queue == self.queue;
        request.queues.iter().position(served)
    }

    fn served<'a>(&self, request: &'a ClaimRequest) -> Option<&'a QueueLease> {
        request.queues.get(self.rank(request)?)
    }

    pub(super) fn reason_to_die(&self, request: &ClaimRequest) -> Option<DeadReason> {
        let allowed = self.served(request).and_then(|queue| queue.max_attempts);
        let max_attempts = self.max_attempts.max(allowed.unwrap_or(0));
        DeadReason::of_expired_lease(self.attempts, max_attempts, self.lease_losses)
    }

    /// A lease for the time the request names for its queue.
    pub(super) fn lease_for(
        &self,
        request: &ClaimRequest,
        now: SystemTime,
    ) -> Option<(LeaseToken, SystemTime)> {
        let served = self.served(request);
        let lease_ttl = served.map_or(crate::DEFAULT_LEASE_TTL, |queue| queue.lease_ttl);
        Some((request.token, super::later(now, lease_ttl)))
    }

    pub(super) fn release(&mut self) {
        self.lease = None;
        self.attempts = self.attempts.saturating_sub(1);
    }

    pub(super) fn lease_to(&mut self, request: &ClaimRequest, now: SystemTime) -> Claimed {
        self.lease = self.lease_for(request, now);
        self.deliveries = self.deliveries.saturating_add(1);
        self.claimed(request.token, now)
    }

    pub(super) fn claimed(&self, token: LeaseToken, now: SystemTime) -> Claimed {
        Claimed {
            id: self.id,
            token,
            queue: Arc::clone(&self.queue),
            kind: Arc::clone(&self.kind),
            payload: self.payload.clone(),
            content_type: Arc::clone(&self.content_type),
            headers: self.headers.clone(),
            attempt: self.attempts,
            max_attempts: self.max_attempts,
            lease_losses: self.lease_losses,
            deliveries: self.deliveries,
            key: self.key.clone(),
            group: self.group.clone(),
            tag: self.tag.clone(),
            created_at: self.created_at,
            age: now.duration_since(self.created_at).unwrap_or_default(),
        }
    }
}

impl fmt::Debug for MemoryMessage {
    /// The payload is left out: it may hold personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryMessage")
            .field("id", &self.id)
            .field("queue", &self.queue)
            .field("kind", &self.kind)
            .field("payload_bytes", &self.payload.len())
            .field("attempts", &self.attempts)
            .field("max_attempts", &self.max_attempts)
            .field("lease_losses", &self.lease_losses)
            .field("deliveries", &self.deliveries)
            .field("due", &self.due)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}
