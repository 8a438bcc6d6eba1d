//! The recorder: sits right in front of the storage, sees every call in the order in which it takes
//! effect, and judges each answer by what it saw before. It knows the rules and not the storage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use outbox_core::{
    BoxStream, Claim, ClaimRequest, Claimed, DeadReason, Due, Error, Held, Housekeeping,
    LeaseToken, MAX_LEASE_LOSSES, MemoryStorage, MessageId, NewMessage, Renewal, Renewed, Runtime,
    Settled, Settlement, Source, Storage, Verdict,
};

/// What a handler decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Done,
    Discard,
    Retry,
    Snooze,
    Dead,
}

/// What the recorder knows of a message.
struct Known {
    max_attempts: u16,
    attempts: u16,
    losses: u16,
    deliveries: u32,
    due: SystemTime,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Held(LeaseToken, SystemTime),
    Ended,
}

/// How often something happened that the simulation is about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) messages: usize,
    pub(crate) takeovers: usize,
    /// Settles by a token that did not hold.
    pub(crate) refused_settles: usize,
    /// Renewals by a token that did not hold.
    pub(crate) refused_renewals: usize,
    /// Claims that came through after they were given up, asked for again and answered.
    pub(crate) late_claims: usize,
    pub(crate) releases: usize,
    pub(crate) dead: usize,
    pub(crate) crashed: usize,
    pub(crate) expired: usize,
}

#[derive(Default)]
pub(crate) struct Log {
    known: BTreeMap<MessageId, Known>,
    /// With how long the message is to wait.
    decisions: BTreeMap<(MessageId, LeaseToken), (Decision, Duration)>,
    dead: BTreeSet<MessageId>,
    names: BTreeMap<LeaseToken, usize>,
    /// Tokens that leased something.
    leased: BTreeSet<LeaseToken>,
    /// Tokens that leased something more in a later call: a claim that was given up, asked for
    /// again and answered came through after all. Its owner knows nothing of these leases, may
    /// repeat a settle that was meant for an earlier one, and a repetition of the claim may give
    /// back what it runs. The fence holds; what the owner believes and decides is not judged.
    late: BTreeSet<LeaseToken>,
    /// The time since the world began.
    pub(crate) now: Duration,
    pub(crate) violations: Vec<String>,
    pub(crate) trace: Vec<String>,
    pub(crate) tally: Tally,
}

/// Clones share the log.
#[derive(Clone)]
pub(crate) struct Recorder {
    storage: Arc<dyn Storage>,
    memory: MemoryStorage,
    /// Guards what was seen; never held while something is awaited.
    log: Arc<Mutex<Log>>,
}

impl Recorder {
    /// Records what `storage` answers, which keeps its messages in `memory`.
    pub(crate) fn new(storage: Arc<dyn Storage>, memory: MemoryStorage) -> Self {
        Self {
            storage,
            memory,
            log: Arc::default(),
        }
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    pub(crate) fn violated(&mut self, rule: &str, what: impl std::fmt::Display) {
        self.violations.push(format!("{rule}: {what}"));
    }

    /// Notes what happens, for who looks into a seed.
    pub(crate) fn note(&mut self, what: impl std::fmt::Display) {
        let now = self.now.as_secs_f64();
        self.trace.push(format!("{now:7.3} {what}"));
    }

    /// A name for a token that is the same in every run of a seed.
    fn name(&mut self, token: LeaseToken) -> usize {
        let next = self.names.len() + 1;
        *self.names.entry(token).or_insert(next)
    }

    /// A handler begins to run under this lease.
    pub(crate) fn began(&mut self, held: Held) {
        let by = self.name(held.token);
        self.note(format!("message {} runs by #{by}", held.id));
    }

    /// The handler that runs under this lease is about to return.
    pub(crate) fn decided(&mut self, held: Held, decision: Decision, wait: Duration) {
        let by = self.name(held.token);
        self.note(format!("message {} ran by #{by}: {decision:?}", held.id));
        self.decisions
            .insert((held.id, held.token), (decision, wait));
    }

    fn enqueued(&mut self, id: MessageId, max_attempts: u16, due: SystemTime) {
        self.tally.messages += 1;
        self.note(format!("message {id} enqueued"));
        let known = Known {
            max_attempts,
            attempts: 0,
            losses: 0,
            deliveries: 0,
            due,
            state: State::Waiting,
        };
        if self.known.insert(id, known).is_some() {
            self.violated("an id is never used again", id);
        }
    }

    /// These leases on one message are held at one time, as their owners believe.
    pub(crate) fn believed(&mut self, id: MessageId, leases: &[LeaseToken]) {
        let sure = leases.iter().filter(|token| !self.late.contains(token));
        if leases.len() > 1 && sure.count() == leases.len() {
            self.violated("one handler at a time believes that it holds", id);
        }
    }

    fn claimed(&mut self, request: &ClaimRequest, claim: &Claim, now: SystemTime) {
        self.notice_late(request.token, claim);
        let by = self.name(request.token);
        if claim.messages.len() > request.limit {
            self.violated("a claim keeps to its limit", claim.messages.len());
        }
        if request.resume && !claim.messages.is_empty() {
            self.release_beyond(request.token, claim);
        }
        for claimed in &claim.messages {
            let (id, source) = (claimed.id, request.source);
            let again = if request.resume { " again" } else { "" };
            self.note(format!("message {id} claimed{again} by #{by}, {source:?}"));
            self.delivered(request, claimed, now);
        }
        for dead in &claim.dead {
            self.note(format!("message {} dead: {}", dead.id, dead.reason));
            self.died(dead.id, dead.reason, now);
        }
    }

    fn notice_late(&mut self, token: LeaseToken, claim: &Claim) {
        let leases_anew = claim.messages.iter().any(|claimed| {
            let known = self.known.get(&claimed.id);
            !known.is_some_and(|known| matches!(known.state, State::Held(held, _) if held == token))
        });
        if leases_anew && !self.leased.insert(token) {
            self.late.insert(token);
            self.tally.late_claims += 1;
        }
    }

    /// A resumed claim answers what its token holds, and gives back what is beyond its limit.
    fn release_beyond(&mut self, token: LeaseToken, claim: &Claim) {
        for (id, known) in &mut self.known {
            let held = matches!(known.state, State::Held(holder, _) if holder == token);
            if held && !claim.messages.iter().any(|claimed| claimed.id == *id) {
                known.state = State::Waiting;
                known.attempts = known.attempts.saturating_sub(1);
            }
        }
    }

    fn delivered(&mut self, request: &ClaimRequest, claimed: &Claimed, now: SystemTime) {
        let queue = request.queues.iter().find(|one| one.queue == claimed.queue);
        let (Some(queue), Some(known)) = (queue, self.known.get_mut(&claimed.id)) else {
            return self.violated("a claim returns what was asked for", claimed.id);
        };
        let mut fair = true;
        match (known.state, request.source) {
            (State::Held(token, _), _) if request.resume && token == request.token => {}
            (State::Waiting, Source::Pending) => {
                known.attempts += 1;
                known.deliveries += 1;
            }
            (State::Held(_, end), Source::Expired) if end <= now => {
                known.losses += 1;
                known.deliveries += 1;
                self.tally.takeovers += 1;
            }
            (State::Waiting | State::Held(..) | State::Ended, _) => fair = false,
        }
        let early = known.state == State::Waiting && known.due > now;
        let before = known.state;
        known.state = State::Held(request.token, now + queue.lease_ttl);
        let counts = (known.attempts, known.losses, known.deliveries);
        let told = (claimed.attempt, claimed.lease_losses, claimed.deliveries);
        if !fair {
            let what = format!("message {} was {before:?}", claimed.id);
            self.violated("a message has one valid lease at most", what);
        }
        if early {
            let what = format!("message {}", claimed.id);
            self.violated("a message is not claimed before it is due", what);
        }
        if told != counts {
            let what = format!("message {}: {told:?}, not {counts:?}", claimed.id);
            self.violated("attempts, losses and deliveries add up", what);
        }
    }

    fn died(&mut self, id: MessageId, reason: DeadReason, now: SystemTime) {
        let Some(known) = self.known.get_mut(&id) else {
            return self.violated("a dead letter was a message", id);
        };
        let expired = matches!(known.state, State::Held(_, end) if end <= now);
        let crashed = known.losses + 1 >= MAX_LEASE_LOSSES;
        let last = known.attempts >= known.max_attempts;
        known.state = State::Ended;
        self.dead.insert(id);
        let right = match reason {
            DeadReason::Crashed => crashed,
            DeadReason::LeaseExpired => !crashed && last,
            _ => false,
        };
        match reason {
            DeadReason::Crashed => self.tally.crashed += 1,
            _ => self.tally.expired += 1,
        }
        if !expired || !right {
            let what = format!("message {id}, {reason}");
            self.violated("a message dies of its losses alone", what);
        }
    }

    fn settled(&mut self, settlements: &[Settlement], settled: &Settled, now: SystemTime) {
        for settlement in settlements {
            let Settlement { id, token, .. } = *settlement;
            let state = self.known.get(&id).map(|known| known.state);
            let holds = matches!(state, Some(State::Held(holder, _)) if holder == token);
            let written = settled.written.contains(&id);
            let by = self.name(token);
            let verb = if written { "settled" } else { "not settled" };
            self.note(format!("message {id} {verb} by #{by}"));
            if holds && written {
                self.wrote(settlement, now);
            } else if holds || written {
                let what = format!("message {id} was {state:?}, and #{by} {verb}");
                self.violated("the holder settles, and nobody else", what);
            } else {
                self.tally.refused_settles += 1;
            }
        }
    }

    fn wrote(&mut self, settlement: &Settlement, now: SystemTime) {
        let Settlement { id, token, .. } = *settlement;
        let decided = self.decisions.get(&(id, token)).copied();
        let decision = decided.map(|(decision, _)| decision);
        let Some(known) = self.known.get_mut(&id) else {
            return;
        };
        let last = known.attempts >= known.max_attempts;
        known.state = State::Waiting;
        let expected = match &settlement.verdict {
            Verdict::Done => Some(Decision::Done),
            Verdict::Discard => Some(Decision::Discard),
            Verdict::Retry { .. } if !last => Some(Decision::Retry),
            Verdict::Dead { reason, .. } if *reason == DeadReason::Exhausted && last => {
                Some(Decision::Retry)
            }
            Verdict::Dead { reason, .. } if *reason == DeadReason::Rejected => Some(Decision::Dead),
            Verdict::Snooze { .. } => Some(Decision::Snooze),
            // What was given back did not run to its end.
            _ => None,
        };
        match &settlement.verdict {
            Verdict::Retry { after, .. } => {
                known.losses = 0;
                known.due = now + *after;
            }
            Verdict::Snooze { after } => {
                known.losses = 0;
                known.attempts = known.attempts.saturating_sub(1);
                known.due = now + *after;
            }
            Verdict::Release => {
                known.attempts = known.attempts.saturating_sub(1);
                self.tally.releases += 1;
            }
            Verdict::Dead { .. } => {
                known.state = State::Ended;
                self.dead.insert(id);
            }
            Verdict::Done | Verdict::Discard => known.state = State::Ended,
        }
        let wait = match &settlement.verdict {
            Verdict::Retry { after, .. } | Verdict::Snooze { after } => Some(*after),
            _ => None,
        };
        let as_long = wait.is_none_or(|wait| decided.is_some_and(|(_, decided)| decided == wait));
        if (decision != expected || !as_long) && !self.late.contains(&token) {
            let what = format!("message {id}: {decision:?}, and {:?}", settlement.verdict);
            self.violated("what the handler decided is written", what);
        }
    }

    fn renewed(&mut self, renewals: &[Renewal], renewed: &Renewed, now: SystemTime) {
        // The worker holds them in a hash map: their order differs from run to run.
        let mut renewals = renewals.to_vec();
        renewals.sort_unstable_by_key(|renewal| renewal.held.id);
        for renewal in renewals {
            let Held { id, token } = renewal.held;
            let (by, is_renewed) = (self.name(token), renewed.renewed.contains(&id));
            let verb = if is_renewed { "renewed" } else { "not renewed" };
            self.note(format!("message {id} {verb} by #{by}"));
            let known = self.known.get_mut(&id);
            let lease = known.and_then(|known| match &mut known.state {
                State::Held(holder, end) if *holder == token => Some(end),
                State::Held(..) | State::Waiting | State::Ended => None,
            });
            let holds = lease.is_some();
            if let Some(end) = lease {
                *end = (now + renewal.lease_ttl).max(*end);
            }
            if holds != is_renewed || holds == renewed.lost.contains(&id) {
                self.violated("the holder renews, and nobody else", id);
            } else if !holds {
                self.tally.refused_renewals += 1;
            }
        }
    }

    /// Everything has come to its end.
    pub(crate) fn finish(&mut self, memory: &MemoryStorage) {
        let live = memory.messages().len();
        let unfinished = self.known.values();
        let unfinished = unfinished.filter(|known| known.state != State::Ended);
        let unfinished = unfinished.count();
        if live > 0 || unfinished > 0 {
            let what = format!("{live} are stored, and {unfinished} have no end");
            self.violated("no message is lost", what);
        }
        let letters = memory.dead_letters().into_iter();
        let kept: BTreeSet<_> = letters.map(|letter| letter.message.id).collect();
        self.tally.dead = self.dead.len();
        if kept != self.dead {
            let what = format!("{kept:?} are kept, and {:?} died", self.dead);
            self.violated("no dead letter is lost", what);
        }
    }
}

#[async_trait]
impl Storage for Recorder {
    async fn check(&self) -> Result<(), Error> {
        self.storage.check().await
    }

    async fn enqueue(&self, messages: Vec<NewMessage>) -> Result<Vec<Option<MessageId>>, Error> {
        let now = self.memory.now();
        let about = messages.iter().map(|new| {
            let due = match new.due {
                Due::Now => now,
                Due::After(delay) => now + delay,
                Due::At(instant) => instant,
            };
            (new.max_attempts, due)
        });
        let about: Vec<_> = about.collect();
        let written = self.storage.enqueue(messages).await?;
        for (id, (max_attempts, due)) in written.iter().zip(about) {
            if let Some(id) = id {
                self.log().enqueued(*id, max_attempts, due);
            }
        }
        Ok(written)
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        let claim = self.storage.claim(request).await?;
        self.log().claimed(request, &claim, self.memory.now());
        Ok(claim)
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Settled, Error> {
        let settled = self.storage.settle(settlements).await?;
        self.log().settled(settlements, &settled, self.memory.now());
        Ok(settled)
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed, Error> {
        let renewed = self.storage.renew(renewals).await?;
        self.log().renewed(renewals, &renewed, self.memory.now());
        Ok(renewed)
    }

    async fn housekeep(&self) -> Result<Housekeeping, Error> {
        self.storage.housekeep().await
    }

    fn wake_ups(&self, queues: Vec<Arc<str>>, runtime: Arc<dyn Runtime>) -> BoxStream<'static, ()> {
        self.storage.wake_ups(queues, runtime)
    }
}
