//! `MemoryStorage`: the reference semantics of [`Storage`], in one process and behind one mutex.
//! Short enough to be read as the specification; nothing here is durable or made for speed.

mod clock;
mod message;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use event_listener::Event;
use futures_util::stream::{self, BoxStream};

use crate::error::Error;
use crate::message::{Due, MessageId, NewMessage};
use crate::outcome::{DeadReason, Settlement, Verdict};
use crate::runtime::Runtime;
use crate::storage::{
    Cancel, Claim, ClaimRequest, DeadLettered, Renewal, Renewed, Settled, Source, Storage,
};
use clock::Clock;
pub use message::{MemoryDeadLetter, MemoryMessage};

/// A storage in memory, for tests. Clones share their messages and their clock.
///
/// No call waits: each takes effect when its future is first polled.
#[derive(Clone)]
pub struct MemoryStorage(Arc<Shared>);

struct Shared {
    /// Guards everything; never held while something is awaited.
    state: Mutex<State>,
    enqueued: Event,
}

struct State {
    clock: Clock,
    last_id: i64,
    messages: BTreeMap<MessageId, MemoryMessage>,
    dead: Vec<MemoryDeadLetter>,
}

impl MemoryStorage {
    /// An empty storage whose clock stands still until [`advance`](Self::advance) moves it. It
    /// starts at the same instant every time.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Clock::manual())
    }

    /// An empty storage whose clock follows the operating system's, and can be advanced as well.
    #[must_use]
    pub fn realtime() -> Self {
        Self::with_clock(Clock::running())
    }

    fn with_clock(clock: Clock) -> Self {
        let state = State {
            clock,
            last_id: 0,
            messages: BTreeMap::new(),
            dead: Vec::new(),
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            enqueued: Event::new(),
        }))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.state().clock.advance(by);
    }

    /// The present time of this storage.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.state().clock.now()
    }

    /// Ends every lease now, as if their time had passed: all ends move back by the same time,
    /// so that they keep their order.
    pub fn expire_leases(&self) {
        let mut state = self.state();
        let now = state.clock.now();
        let ends = state.messages.values().filter_map(|m| Some(m.lease?.1));
        let left = ends.max().map_or(Duration::ZERO, |end| until(end, now));
        for (_, end) in state.messages.values_mut().filter_map(|m| m.lease.as_mut()) {
            *end -= left;
        }
    }

    /// Makes every message due now that waits for a later time.
    pub fn make_due(&self) {
        let mut state = self.state();
        let now = state.clock.now();
        for message in state.messages.values_mut() {
            message.due = message.due.min(now);
        }
    }

    /// All live messages, by id.
    #[must_use]
    pub fn messages(&self) -> Vec<MemoryMessage> {
        self.state().messages.values().cloned().collect()
    }

    /// All dead letters, in the order in which they died.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<MemoryDeadLetter> {
        self.state().dead.clone()
    }

    /// Deletes a message that nobody holds. An expired lease does not protect it.
    #[must_use]
    pub fn cancel(&self, id: MessageId) -> Cancel {
        let mut state = self.state();
        let now = state.clock.now();
        match state.messages.get(&id).map(|message| message.lease) {
            None => Cancel::NotFound,
            Some(Some((_, end))) if end > now => Cancel::Leased,
            Some(_) => {
                state.messages.remove(&id);
                Cancel::Cancelled
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics between two writes that belong together, so the state is whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStorage").finish_non_exhaustive()
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn enqueue(&self, messages: Vec<NewMessage>) -> Result<Vec<Option<MessageId>>, Error> {
        let mut hint = false;
        let ids = {
            let mut state = self.state();
            let enqueue = |new: NewMessage| {
                let due_now = new.due == Due::Now;
                let id = state.enqueue(new);
                hint |= due_now && id.is_some();
                id
            };
            messages.into_iter().map(enqueue).collect()
        };
        if hint {
            self.0.enqueued.notify(usize::MAX);
        }
        Ok(ids)
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        Ok(self.state().claim(request))
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Settled, Error> {
        let mut state = self.state();
        let written = settlements.iter().filter(|one| state.settle(one));
        Ok(Settled::new(written.map(|one| one.id).collect()))
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed, Error> {
        let mut state = self.state();
        let (renewed, lost): (Vec<&Renewal>, _) =
            renewals.iter().partition(|renewal| state.renew(renewal));
        let id = |renewal: &Renewal| renewal.held.id;
        Ok(Renewed::new(
            renewed.into_iter().map(id).collect(),
            lost.into_iter().map(id).collect(),
        ))
    }

    fn wake_ups(&self, _: Vec<Arc<str>>, _: Arc<dyn Runtime>) -> BoxStream<'static, ()> {
        let shared = Arc::clone(&self.0);
        // The next listener exists before the present hint is handed out: no enqueue falls between.
        let listener = shared.enqueued.listen();
        Box::pin(stream::unfold(
            (shared, listener),
            |(shared, listener)| async {
                listener.await;
                let next = shared.enqueued.listen();
                Some(((), (shared, next)))
            },
        ))
    }
}

impl State {
    fn enqueue(&mut self, new: NewMessage) -> Option<MessageId> {
        let twin = |m: &MemoryMessage| *m.queue == *new.queue && m.key == new.key;
        if new.key.is_some() && self.messages.values().any(twin) {
            return None;
        }
        self.last_id += 1;
        let id = MessageId(self.last_id);
        let message = MemoryMessage::new(id, new, self.clock.now());
        self.messages.insert(id, message);
        Some(id)
    }

    fn claim(&mut self, request: &ClaimRequest) -> Claim {
        let now = self.clock.now();
        let mut claim = Claim::default();
        if request.resume {
            self.resume(request, &mut claim);
        }
        if claim.messages.is_empty() {
            match request.source {
                Source::Pending => self.claim_pending(request, &mut claim),
                Source::Expired => self.claim_expired(request, &mut claim),
            }
        }
        if claim.messages.is_empty() {
            let served = || self.messages.values().filter(|m| m.rank(request).is_some());
            let waiting = served().filter(|m| m.lease.is_none()).map(|m| m.due);
            claim.next_due = waiting.min().map(|due| until(due, now));
            let ends = served().filter_map(|m| Some(m.lease?.1));
            claim.next_expiry = ends.min().map(|end| until(end, now));
        }
        claim
    }

    fn resume(&mut self, request: &ClaimRequest, claim: &mut Claim) {
        let now = self.clock.now();
        let held = self.in_start_order(request, |m| m.is_held_by(request.token));
        for (place, id) in held.into_iter().enumerate() {
            match self.messages.get_mut(&id) {
                Some(message) if place < request.limit => {
                    message.lease = message.lease_for(request, now);
                    claim.messages.push(message.claimed(request.token, now));
                }
                Some(message) => message.release(),
                None => {}
            }
        }
    }

    fn claim_pending(&mut self, request: &ClaimRequest, claim: &mut Claim) {
        let now = self.clock.now();
        let available = self.in_start_order(request, |m| {
            m.lease.is_none() && m.due <= now && m.rank(request).is_some()
        });
        for id in available.into_iter().take(request.limit) {
            if let Some(message) = self.messages.get_mut(&id) {
                message.attempts = message.attempts.saturating_add(1);
                claim.messages.push(message.lease_to(request, now));
            }
        }
    }

    fn claim_expired(&mut self, request: &ClaimRequest, claim: &mut Claim) {
        let now = self.clock.now();
        let served = self.messages.values().filter(|m| m.rank(request).is_some());
        let ends = served.filter_map(|m| Some((m.lease?.1, m.id)));
        let mut expired: Vec<_> = ends.filter(|(end, _)| *end <= now).collect();
        expired.sort_unstable();
        for (_, id) in expired {
            let Some(message) = self.messages.get_mut(&id) else {
                continue;
            };
            let suspect = message.lease_losses > 0;
            if let Some(reason) = message.reason_to_die(request) {
                let (queue, kind) = (Arc::clone(&message.queue), Arc::clone(&message.kind));
                claim.dead.push(DeadLettered::new(id, queue, kind, reason));
                self.bury(id, reason);
            } else if claim.messages.is_empty() || !suspect {
                message.lease_losses = message.lease_losses.saturating_add(1);
                claim.messages.push(message.lease_to(request, now));
                if suspect || claim.messages.len() == request.limit {
                    return;
                }
            }
        }
    }

    fn in_start_order(
        &self,
        request: &ClaimRequest,
        filter: impl Fn(&MemoryMessage) -> bool,
    ) -> Vec<MessageId> {
        let mut found: Vec<_> = self.messages.values().filter(|m| filter(m)).collect();
        found.sort_unstable_by_key(|m| (m.rank(request), m.priority, m.due, m.id));
        found.into_iter().map(|m| m.id).collect()
    }

    fn settle(&mut self, settlement: &Settlement) -> bool {
        let now = self.clock.now();
        let Settlement { id, token, verdict } = settlement;
        let Some(message) = self.messages.get_mut(id).filter(|m| m.is_held_by(*token)) else {
            return false;
        };
        match verdict {
            Verdict::Done | Verdict::Discard => {
                self.messages.remove(id);
            }
            Verdict::Retry { after, error } => {
                message.due = later(now, *after);
                message.lease = None;
                message.lease_losses = 0;
                message.last_error = Some(error.clone());
            }
            Verdict::Snooze { after } => {
                message.due = later(now, *after);
                message.lease = None;
                message.lease_losses = 0;
                message.attempts = message.attempts.saturating_sub(1);
            }
            Verdict::Release => message.release(),
            Verdict::Dead { reason, error } => {
                message.last_error = Some(error.clone());
                self.bury(*id, *reason);
            }
        }
        true
    }

    fn renew(&mut self, renewal: &Renewal) -> bool {
        let renewed = later(self.clock.now(), renewal.lease_ttl);
        let message = self.messages.get_mut(&renewal.held.id);
        match message.and_then(|message| message.lease.as_mut()) {
            Some((token, end)) if *token == renewal.held.token => {
                *end = renewed.max(*end);
                true
            }
            _ => false,
        }
    }

    fn bury(&mut self, id: MessageId, reason: DeadReason) {
        if let Some(mut message) = self.messages.remove(&id) {
            message.lease = None;
            self.dead.push(MemoryDeadLetter {
                message,
                reason,
                died_at: self.clock.now(),
            });
        }
    }
}

/// Times beyond the clock's range are as late as it goes: 100 years and more from now.
fn later(now: SystemTime, by: Duration) -> SystemTime {
    now.checked_add(by.min(crate::retry::MAX_DELAY))
        .unwrap_or(now)
}

fn until(instant: SystemTime, now: SystemTime) -> Duration {
    instant.duration_since(now).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn enqueue(storage: &MemoryStorage) {
        let written = storage.enqueue(vec![NewMessage::new("mail", "welcome", *b"1")]);
        let ids = written.now_or_never().expect("memory never waits");
        assert_eq!(ids.expect("memory never fails"), [Some(MessageId(1))]);
    }

    #[test]
    fn the_manual_clock_stands_still_and_the_real_one_runs() {
        let storage = MemoryStorage::new();
        let start = storage.now();
        assert_eq!(start, MemoryStorage::new().now());
        storage.clone().advance(Duration::from_secs(90));
        assert_eq!(storage.now(), start + Duration::from_secs(90));

        let real = MemoryStorage::realtime();
        let start = real.now();
        while real.now() == start {
            std::thread::yield_now();
        }
    }

    #[test]
    fn debug_output_leaves_payloads_out() {
        let storage = MemoryStorage::new();
        enqueue(&storage);
        assert!(format!("{:?}", storage.messages()).contains("payload_bytes: 1"));
    }
}
