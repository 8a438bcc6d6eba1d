//! The agent's talk with the storage: what goes out with an exchange, and what its answer means
//! for the messages it spoke of.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt};

use super::{Agent, Ending, Phase};
use crate::error::{Error, ErrorKind};
use crate::outcome::{Settlement, Verdict};
use crate::runtime::{Runtime, timeout};
use crate::storage::{Claim, ClaimRequest, Settled, Source, Storage};
use crate::telemetry::{About, Event, Health, LossPhase, Written, add};
use crate::worker::claim::{Holding, PATIENCE};
use crate::worker::heartbeat::{give_up, lease_lost, storage_panic, too_slow};
use crate::worker::settle::{Call, Fate, Pending};
use crate::worker::verdict::panic_message;

/// So many outcomes are worth an exchange of their own beside another, or twice as many as there are
/// slots if those are fewer. Others wait for its end, so that batches grow with the load.
const WORTH: usize = 50;

/// What an exchange brought back.
pub(super) struct Answer {
    request: Option<ClaimRequest>,
    sent: Instant,
    settled: Option<(Call, Result<Settled, Error>)>,
    claim: Option<Result<Claim, Error>>,
}

/// An exchange whose answer is awaited.
pub(super) struct UnderWay {
    since: Instant,
    pub(super) answer: BoxFuture<'static, Answer>,
}

impl UnderWay {
    /// When it no longer counts.
    fn outlasts(&self) -> Instant {
        self.since + PATIENCE
    }
}

impl Agent {
    /// Begins exchanges for what there is to say: one, and others beside it where the storage works
    /// on several at once and they are worth it.
    pub(super) fn begin_exchanges(&mut self, now: Instant) {
        self.worthwhile_exchanges = match self.phase {
            Phase::Claiming => self.worthwhile(now),
            Phase::Draining { .. } | Phase::Cancelling { .. } | Phase::Flushing { .. } => {
                self.most_exchanges
            }
        };
        self.claiming.share_among(self.worthwhile_exchanges);
        while self.exchanges.len() < self.worthwhile_exchanges && self.begin_exchange(now) {}
        self.next_impatience = self.next_impatience(now);
    }

    fn worthwhile(&self, now: Instant) -> usize {
        let long = self.exchanges.iter().filter(|one| one.outlasts() <= now);
        let worthwhile = self.storage.worthwhile_exchanges().max(1) + long.count();
        worthwhile.min(self.most_exchanges)
    }

    /// When one more may be begun, because one takes long that did not `now`.
    fn next_impatience(&self, now: Instant) -> Option<Instant> {
        if self.exchanges.len() >= self.most_exchanges {
            return None;
        }
        let outlasts = self.exchanges.iter().map(UnderWay::outlasts);
        outlasts.filter(|at| *at > now).min()
    }

    /// Whether there is an exchange whose end is worth waiting for.
    pub(super) fn has_company(&self, now: Instant) -> bool {
        self.exchanges.iter().any(|one| one.outlasts() > now)
    }

    /// Whether outcomes are worth an exchange, together with `more` that are not read yet.
    pub(super) fn is_worth_an_exchange(&self, more: usize, now: Instant) -> bool {
        let many = WORTH.min(self.settings.concurrency.saturating_mul(2));
        self.exchanges.len() < self.worthwhile_exchanges
            && (!self.has_company(now) || self.outgoing.waiting() + more >= many)
    }

    fn begin_exchange(&mut self, now: Instant) -> bool {
        if self.backoff.pause(now).is_some() {
            return false;
        }
        let settles = self.is_worth_an_exchange(0, now) && self.outgoing.has_waiting(now);
        let request = match self.phase {
            // What ran and cannot be written would only become more.
            Phase::Claiming if self.outgoing.is_stuck() => None,
            Phase::Claiming => self.claiming.plan(
                Holding {
                    settles,
                    ..self.holding()
                },
                now,
            ),
            // Its messages are given back as soon as they are known.
            Phase::Draining { .. } => self.claiming.resume(),
            Phase::Cancelling { .. } | Phase::Flushing { .. } => None,
        };
        let asked = settles.then(|| self.outgoing.ask(now)).flatten();
        if request.is_none() && asked.is_none() {
            return false;
        }
        add(&self.shared.telemetry.counters.exchanges, 1);
        let (storage, runtime) = (Arc::clone(&self.storage), Arc::clone(&self.shared.runtime));
        let limit = self.settings.storage_timeout;
        let exchange = converse(storage, runtime, limit, asked, request);
        self.exchanges.push(UnderWay {
            since: now,
            answer: Box::pin(exchange),
        });
        true
    }

    pub(super) fn take_answer(&mut self, answer: Answer) {
        let now = self.now();
        let mut failed = None;
        let settles = answer.settled.is_some();
        match answer.settled {
            None => {}
            Some((call, Ok(settled))) => {
                let known = self.outgoing.answered(call, &settled, now);
                self.shared
                    .leases
                    .end(known.iter().map(|(pending, _)| pending.held()));
                for (pending, fate) in known {
                    self.tell_fate(&pending, fate);
                }
            }
            Some((call, Err(error))) => {
                self.not_settled(call, &error, now);
                failed = Some(error);
            }
        }
        match (answer.request, answer.claim) {
            (Some(request), Some(Ok(claim))) => {
                self.take_claim(&request, claim, answer.sent, now);
            }
            (Some(request), Some(Err(error))) => {
                // While the worker ends it is asked for again once; then its leases run out.
                if self.phase == Phase::Claiming || !request.resume {
                    if error.is_transient() {
                        self.claiming.failed(request);
                    } else {
                        self.claiming.refused(request, now);
                    }
                }
                failed = Some(error);
            }
            (Some(_), None) | (None, _) => {}
        }
        self.look_again |= settles || !self.exchanges.is_empty();
        if matches!(self.ending, Ending::WhenIdle { .. })
            && self.holds_nothing()
            && std::mem::take(&mut self.look_again)
        {
            // At once: whether that was all is what the run waits for.
            self.claiming.woken();
        }
        match failed {
            Some(error) => self.storage_failed(&error, answer.sent),
            None => self.storage_answered(answer.sent),
        }
    }

    fn not_settled(&mut self, call: Call, error: &Error, now: Instant) {
        if error.is_transient() || !is_about_outcomes(error.kind()) {
            self.outgoing.failed(call, now);
        } else if let Some(refused) = self.outgoing.refused(call) {
            tracing::error!(id = %refused.settlement.id, error = error as &dyn std::error::Error, "an outcome was refused; the message comes back when its lease ends");
            self.shared.leases.end([refused.held()]);
        }
    }

    fn take_claim(&mut self, request: &ClaimRequest, claim: Claim, sent: Instant, now: Instant) {
        let count = claim.messages.len();
        add(&self.shared.telemetry.counters.claimed, count);
        if request.source == Source::Expired {
            add(&self.shared.telemetry.counters.reclaimed, count);
        }
        self.shared.telemetry.tell(&Event::Claimed {
            source: request.source,
            count,
            limit: request.limit,
        });
        for dead in &claim.dead {
            add(&self.shared.telemetry.counters.dead, 1);
            tracing::warn!(id = %dead.id, queue = &*dead.queue, kind = &*dead.kind, reason = %dead.reason, "message became a dead letter");
            self.shared.telemetry.tell(&Event::DeadLettered {
                message: About::new(dead.id, &dead.queue, &dead.kind, 0),
                reason: dead.reason,
            });
        }
        self.claiming.answered(request, &claim, now);
        self.handlers_first = count > 0 && count < request.limit;
        self.note_idle(request, &claim);
        let lease_ttl = |queue: &str| {
            request
                .queues
                .iter()
                .find(|asked| &*asked.queue == queue)
                .map_or(crate::lease::MIN_LEASE_TTL, |asked| asked.lease_ttl)
        };
        let (leases, former) = self
            .shared
            .leases
            .add(&claim.messages, lease_ttl, sent, now);
        give_up(&self.shared.telemetry, former);
        for (message, lease) in claim.messages.into_iter().zip(leases) {
            self.suspects += usize::from(message.is_suspect());
            if self.phase != Phase::Claiming || self.shared.shutdown.is_draining() {
                self.give_back(&message, Verdict::Release);
            } else if message.is_suspect() {
                self.ready.push_front((message, lease));
            } else {
                self.ready.push_back((message, lease));
            }
        }
    }

    /// A worker that runs until idle ends after a claim that found nothing, while nothing was
    /// held and nothing is to come. What a settle puts back beside that claim is leased in its eyes,
    /// and thus to come.
    fn note_idle(&mut self, request: &ClaimRequest, claim: &Claim) {
        let Ending::WhenIdle { horizon } = self.ending else {
            return;
        };
        let far = |time: Option<Duration>| time.is_none_or(|time| time > horizon);
        self.idle = request.source == Source::Pending
            && claim.messages.is_empty()
            && self.holds_nothing()
            && far(claim.next_due)
            && claim.next_expiry.is_none();
    }

    fn holds_nothing(&self) -> bool {
        self.exchanges.is_empty()
            && self.running == 0
            && self.ready.is_empty()
            && self.outgoing.is_empty()
    }

    fn tell_fate(&mut self, pending: &Pending, fate: Fate) {
        let counters = &self.shared.telemetry.counters;
        // An unresolved one may well have been written.
        if fate != Fate::Lost
            && let Written::Retried(after) | Written::Snoozed(after) = pending.written()
        {
            self.claiming.due_again(after, self.now());
        }
        match fate {
            Fate::Written => {
                let written = pending.written();
                let counter = match written {
                    Written::Done => &counters.done,
                    Written::Discarded => &counters.discarded,
                    Written::Retried(_) => &counters.retried,
                    Written::Snoozed(_) => &counters.snoozed,
                    Written::Released => &counters.released,
                    Written::Dead(_) => &counters.dead,
                };
                add(counter, 1);
                if let Verdict::Dead { reason, error } = &pending.settlement.verdict {
                    tracing::warn!(id = %pending.settlement.id, queue = &*pending.queue, kind = &*pending.kind, %reason, error, "message became a dead letter");
                }
                self.shared.telemetry.tell(&Event::Settled {
                    message: pending.about(),
                    written,
                    duration: pending.duration,
                });
            }
            Fate::Lost => {
                add(&counters.fenced_writes, 1);
                lease_lost(&self.shared.telemetry, pending.about(), LossPhase::Settle);
            }
            Fate::Unresolved => {
                add(&counters.unresolved, 1);
                self.shared
                    .telemetry
                    .tell(&Event::Unresolved(pending.about()));
            }
        }
    }

    pub(super) fn storage_failed(&mut self, error: &Error, sent: Instant) {
        add(&self.shared.telemetry.counters.storage_errors, 1);
        let failures = self.backoff.failed(sent, self.now(), fastrand::f64());
        tracing::warn!(
            error = error as &dyn std::error::Error,
            failures,
            "the storage failed; the worker goes on"
        );
        self.shared.telemetry.set_health(Health::Degraded {
            failures,
            error: error.to_string(),
        });
        self.shared
            .telemetry
            .tell(&Event::StorageFailed { error, failures });
    }

    pub(super) fn storage_answered(&mut self, sent: Instant) {
        if !self.backoff.answered(sent) || self.outgoing.has_failed() {
            return;
        }
        let failures = self.backoff.recovered();
        self.shared.telemetry.set_health(Health::Healthy);
        if failures > 0 {
            tracing::info!(failures, "the storage answers again");
            self.shared
                .telemetry
                .tell(&Event::StorageRecovered { failures });
        }
    }
}

/// Whether a refusal for good may be about the outcomes that were sent. Where nobody is let in, or
/// the schema is wrong, they are not to blame: given up, their messages would run again and again,
/// and end as dead letters although they succeeded.
const fn is_about_outcomes(kind: ErrorKind) -> bool {
    !matches!(
        kind,
        ErrorKind::InvalidConfig | ErrorKind::Unmigrated | ErrorKind::SchemaDrift
    )
}

/// One exchange with the storage: within its time, and with its panics caught.
async fn converse(
    storage: Arc<dyn Storage>,
    runtime: Arc<dyn Runtime>,
    limit: Duration,
    asked: Option<(Call, Vec<Settlement>)>,
    request: Option<ClaimRequest>,
) -> Answer {
    let sent = runtime.now();
    let (call, settlements) = asked.unzip();
    let settlements = settlements.unwrap_or_default();
    let both = async {
        match &request {
            Some(request) => {
                let answer = storage.exchange(&settlements, request).await;
                (answer.settled, Some(answer.claim))
            }
            None => (storage.settle(&settlements).await, None),
        }
    };
    let both = AssertUnwindSafe(both).catch_unwind();
    let (settled, claim) = match timeout(&*runtime, limit, both).await {
        Some(Ok(answers)) => answers,
        Some(Err(panic)) => {
            let panic = panic_message(panic);
            (
                Err(storage_panic("settle", &panic)),
                Some(Err(storage_panic("claim", &panic))),
            )
        }
        None => (
            Err(too_slow("exchange", limit)),
            Some(Err(too_slow("exchange", limit))),
        ),
    };
    Answer {
        sent,
        settled: call.map(|call| (call, settled)),
        claim: if request.is_some() { claim } else { None },
        request,
    }
}
