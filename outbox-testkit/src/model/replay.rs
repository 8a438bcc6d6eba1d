//! Replays steps on a storage and on the reference, and compares every answer and what is stored.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use outbox_core::{
    Cancel, Claim, ClaimRequest, DeadReason, Due, Held, MessageId, NewMessage, QueueLease, Renewal,
    Settled, Settlement, Source, Verdict,
};

use super::reference::{HOUR, Reference, lease};
use super::steps::{Claimed, Kind, New, QUEUES, Step, Ttl, Write};
use crate::conformance::{Capability, Subject};

/// Replays the steps on an empty subject, which may take a minute of its own time for all of them.
///
/// # Panics
/// When the storage answers something, or holds something, that the model does not.
pub async fn replay(subject: &dyn Subject, steps: &[Step]) {
    let mut run = Run {
        subject,
        // Leases of the past end before now, and not before the beginning of time.
        model: Reference {
            now: HOUR * 100_000,
            ..Reference::default()
        },
        ids: Vec::new(),
        deliveries: Vec::new(),
        claims: Vec::new(),
        place: String::new(),
    };
    for (number, step) in steps.iter().enumerate() {
        // No two steps happen at the same time.
        run.model.now += 1;
        subject.runtime().sleep(Duration::from_millis(1)).await;
        run.place = format!("step {}, {:?}", number + 1, step.0);
        let touched = run.step(&step.0).await;
        run.compare(touched).await;
    }
    "the end".clone_into(&mut run.place);
    run.compare(run.ids.clone()).await;
    run.compare_dead_letters().await;
}

struct Run<'a> {
    subject: &'a dyn Subject,
    model: Reference,
    /// Every message, newest last.
    ids: Vec<MessageId>,
    /// Every delivery, newest last.
    deliveries: Vec<Held>,
    claims: Vec<(ClaimRequest, Vec<usize>)>,
    place: String,
}

impl Run<'_> {
    /// Does it, and returns the messages that it speaks of.
    async fn step(&mut self, step: &Kind) -> Vec<MessageId> {
        match step {
            Kind::Enqueue(new) => self.enqueue(new).await,
            Kind::Claim {
                queues,
                limit,
                expired,
            } => {
                let request = self.request(queues, *limit, *expired);
                self.claim(&request, queues).await
            }
            Kind::Resume { claim, limit } => {
                let Some((request, queues)) = pick(&self.claims, *claim) else {
                    return Vec::new();
                };
                let mut request = request.resumed();
                request.limit = *limit;
                self.claim(&request, &queues).await
            }
            Kind::Settle(writes) => self.settle(writes).await,
            Kind::Exchange {
                writes,
                queue,
                limit,
                expired,
            } => {
                let request = self.request(&[*queue], *limit, *expired);
                self.exchange(writes, &request, *queue).await
            }
            Kind::Renew(renewals) => self.renew(renewals).await,
            Kind::Expire => {
                self.subject.expire_leases().await;
                self.model.expire();
                Vec::new()
            }
            Kind::MakeDue => {
                self.subject.make_due().await;
                self.model.make_due();
                Vec::new()
            }
            Kind::Cancel(id) => self.cancel(*id).await,
        }
    }

    /// A claim that may be resumed later.
    fn request(&mut self, queues: &[usize], limit: usize, expired: bool) -> ClaimRequest {
        let leases = queues.iter().map(|queue| {
            let lease_ttl = Duration::from_millis(lease(*queue));
            QueueLease::new(QUEUES[*queue], lease_ttl)
        });
        let source = if expired {
            Source::Expired
        } else {
            Source::Pending
        };
        let request = ClaimRequest::new(leases.collect(), limit, source);
        self.claims.push((request.clone(), queues.to_vec()));
        request
    }

    async fn enqueue(&mut self, all: &[New]) -> Vec<MessageId> {
        let mut all = all.to_vec();
        let declined = self.subject.declines();
        if declined.contains(&Capability::Priorities) {
            all.iter_mut().for_each(|new| new.priority = 0);
        }
        let message = |new: &New| {
            let mut message = NewMessage::new(QUEUES[new.queue], "k", *b"payload");
            message.key = new.key.map(|key| key.to_string());
            message.priority = new.priority;
            message.max_attempts = new.max_attempts;
            if new.hours > 0 {
                message.due = Due::After(Duration::from_millis(new.hours * HOUR));
            }
            message
        };
        let messages = all.iter().map(message).collect();
        let written = self.subject.storage().enqueue(messages).await;
        let written = written.expect("enqueue succeeds");
        self.same("one entry for each message", written.len(), all.len());
        let before = self.ids.len();
        for (id, new) in written.into_iter().zip(all) {
            let taken = self.model.is_taken(&new);
            self.same("a taken key", id.is_none(), taken);
            if let Some(id) = id {
                let grows = self.ids.last().is_none_or(|last| *last < id);
                self.same("a larger id", grows, true);
                self.ids.push(id);
                self.model.enqueue(id, new);
            }
        }
        self.ids[before..].to_vec()
    }

    async fn claim(&mut self, request: &ClaimRequest, queues: &[usize]) -> Vec<MessageId> {
        let claim = self.subject.storage().claim(request).await;
        self.compare_claim(&claim.expect("claim succeeds"), request, queues)
    }

    fn compare_claim(
        &mut self,
        claim: &Claim,
        request: &ClaimRequest,
        queues: &[usize],
    ) -> Vec<MessageId> {
        let (limit, token) = (request.limit, request.token);
        let resumed = match request.resume {
            true => self.model.resume(queues, limit, token),
            false => None,
        };
        let taken: Vec<_> = claim.messages.iter().map(|claimed| claimed.id).collect();
        match (resumed, request.source) {
            (Some(held), _) => self.same("what the token holds", &taken, &held),
            (None, Source::Pending) => {
                let expected = self.model.claim_pending(queues, limit, token);
                self.same("what is pending", &taken, &expected);
            }
            (None, _) => {
                let followed = self.model.claim_expired(queues, limit, token, claim);
                self.same("a takeover", followed, Ok(()));
            }
        }
        self.compare_delivered(claim, request);
        self.compare_next_times(claim, queues);
        self.deliveries
            .extend(claim.messages.iter().map(|claimed| claimed.held()));
        let dead = claim.dead.iter().map(|dead| dead.id);
        taken.into_iter().chain(dead).collect()
    }

    fn compare_delivered(&self, claim: &Claim, request: &ClaimRequest) {
        for claimed in &claim.messages {
            let live = &self.model.live[&claimed.id];
            self.same("the token", claimed.token, request.token);
            self.same("the queue", &*claimed.queue, QUEUES[live.new.queue]);
            let told = (claimed.attempt, claimed.lease_losses, claimed.deliveries);
            let counts = (live.attempts, live.losses, live.deliveries);
            self.same("attempt, losses and deliveries", told, counts);
            self.same(
                "the most attempts",
                claimed.max_attempts,
                live.new.max_attempts,
            );
            let key = live.new.key.map(|key| key.to_string());
            self.same("the key", &claimed.key, &key);
        }
    }

    fn compare_next_times(&self, claim: &Claim, queues: &[usize]) {
        if !claim.messages.is_empty() {
            return;
        }
        let served = || {
            let live = self.model.live.values();
            live.filter(|live| queues.contains(&live.new.queue))
        };
        let waiting = served().filter(|live| live.lease.is_none());
        let next_due = waiting.map(|live| live.due).min();
        let next_expiry = served().filter_map(|live| Some(live.lease?.1)).min();
        self.about("the next due time", claim.next_due, next_due);
        self.about("the next end of a lease", claim.next_expiry, next_expiry);
    }

    fn held(&self, claimed: &Claimed) -> Option<Held> {
        let mut held = pick(&self.deliveries, claimed.delivery)?;
        if let Some(other) = claimed.token_of {
            held.token = pick(&self.deliveries, other)?.token;
        }
        Some(held)
    }

    async fn settle(&mut self, writes: &[(Claimed, Write)]) -> Vec<MessageId> {
        let settlements = self.settlements(writes);
        let settled = self.subject.storage().settle(&settlements).await;
        self.compare_settled(settled.expect("settle succeeds"), &settlements)
    }

    async fn exchange(
        &mut self,
        writes: &[(Claimed, Write)],
        request: &ClaimRequest,
        queue: usize,
    ) -> Vec<MessageId> {
        let mut settlements = self.settlements(writes);
        settlements.retain(|one| {
            let live = self.model.live.get(&one.id);
            live.is_none_or(|live| live.new.queue != queue)
        });
        let answer = self.subject.storage().exchange(&settlements, request).await;
        let settled = answer.settled.expect("an exchange settles");
        let claim = answer.claim.expect("an exchange claims");
        let mut spoken_of = self.compare_settled(settled, &settlements);
        spoken_of.extend(self.compare_claim(&claim, request, &[queue]));
        spoken_of
    }

    /// At most one for each message.
    fn settlements(&self, writes: &[(Claimed, Write)]) -> Vec<Settlement> {
        let mut spoken_of = BTreeSet::new();
        let held = writes
            .iter()
            .filter_map(|(claimed, write)| Some((self.held(claimed)?, write)));
        held.filter(|(held, _)| spoken_of.insert(held.id))
            .map(|(held, write)| Settlement::new(held, verdict(*write)))
            .collect()
    }

    fn compare_settled(&mut self, settled: Settled, settlements: &[Settlement]) -> Vec<MessageId> {
        self.same("nobody keeps messages locked", &settled.busy, &vec![]);
        let written = settled.written.into_iter().collect::<BTreeSet<_>>();
        let expected = settlements.iter().filter(|one| self.model.settle(one));
        let expected = expected.map(|one| one.id).collect();
        self.same("what is written", written, expected);
        settlements.iter().map(|one| one.id).collect()
    }

    async fn renew(&mut self, renewals: &[(Claimed, Ttl)]) -> Vec<MessageId> {
        let mut spoken_of = BTreeSet::new();
        let mut asked = Vec::new();
        for (claimed, ttl) in renewals {
            let Some(held) = self.held(claimed) else {
                continue;
            };
            let ttl = match ttl {
                Ttl::Minutes => 120_000,
                Ttl::Hour => HOUR,
            };
            if spoken_of.insert(held.id) {
                asked.push(Renewal::new(held, Duration::from_millis(ttl)));
            }
        }
        let answer = self.subject.storage().renew(&asked).await;
        let answer = answer.expect("renew succeeds");
        let mut expected = (BTreeSet::new(), BTreeSet::new());
        for renewal in asked {
            let ttl = renewal.lease_ttl.as_millis() as u64;
            if self.model.renew(renewal.held, ttl) {
                expected.0.insert(renewal.held.id);
            } else {
                expected.1.insert(renewal.held.id);
            }
        }
        let told = (
            answer.renewed.into_iter().collect(),
            answer.lost.into_iter().collect(),
        );
        self.same("what is renewed and what is lost", told, expected);
        spoken_of.into_iter().collect()
    }

    async fn cancel(&mut self, id: usize) -> Vec<MessageId> {
        let Some(id) = pick(&self.ids, id) else {
            return Vec::new();
        };
        if self.subject.declines().contains(&Capability::Cancel) {
            return Vec::new();
        }
        let expected = match self.model.live.get(&id).map(|live| live.lease) {
            None => Cancel::NotFound,
            Some(Some((_, end))) if end > self.model.now => Cancel::Leased,
            Some(_) => {
                self.model.live.remove(&id);
                Cancel::Cancelled
            }
        };
        let answer = self.subject.cancel(id).await;
        self.same("what becomes of it", answer, expected);
        vec![id]
    }

    /// Compares what is stored of these messages.
    async fn compare(&self, ids: Vec<MessageId>) {
        for id in ids {
            let stored = self.subject.state(id).await;
            let live = self.model.live.get(&id);
            let (Some(stored), Some(live)) = (&stored, live) else {
                self.same(
                    &format!("message {id} is live"),
                    stored.is_some(),
                    live.is_some(),
                );
                continue;
            };
            let told = (stored.attempts, stored.lease_losses, stored.deliveries);
            let counts = (live.attempts, live.losses, live.deliveries);
            let what = format!("attempts, losses and deliveries of message {id}");
            self.same(&what, told, counts);
            let what = format!("the error of message {id}");
            self.same(&what, &stored.last_error, &live.error);
            let end = live.lease.map(|(_, end)| end);
            let what = format!("the lease of message {id}");
            self.about(&what, stored.lease_left, end);
            let what = format!("the due time of message {id}");
            self.about(&what, Some(stored.due_in), Some(live.due));
        }
    }

    async fn compare_dead_letters(&self) {
        let letters = self.subject.dead_letters().await;
        let mut letters: Vec<_> = letters
            .into_iter()
            .map(|letter| (letter.id, letter.reason, letter.error))
            .collect();
        letters.sort_unstable();
        let expected = self
            .model
            .dead
            .iter()
            .map(|(id, (reason, error))| (*id, reason.as_str().to_owned(), error.clone()));
        self.same("the dead letters", letters, expected.collect());
    }

    #[track_caller]
    fn same<T: Debug + PartialEq>(&self, what: &str, told: T, expected: T) {
        assert!(
            told == expected,
            "{}: {what}: {told:?}, and not {expected:?}",
            self.place
        );
    }

    /// Compares the time until an instant, give or take the time that the steps take.
    #[track_caller]
    fn about(&self, what: &str, told: Option<Duration>, expected: Option<u64>) {
        let left = expected.map(|instant| instant.saturating_sub(self.model.now));
        let minute = Duration::from_secs(60);
        let near = match (told, left.map(Duration::from_millis)) {
            (Some(told), Some(left)) => told.abs_diff(left) < minute,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        assert!(
            near,
            "{}: {what}: {told:?}, and not {left:?} ms",
            self.place
        );
    }
}

/// The newest is number 0.
fn pick<T: Clone>(all: &[T], number: usize) -> Option<T> {
    let number = number.checked_rem(all.len())?;
    all.iter().rev().nth(number).cloned()
}

fn verdict(write: Write) -> Verdict {
    let after = Duration::from_millis(HOUR);
    let error = "refused".to_owned();
    match write {
        Write::Done => Verdict::Done,
        Write::Discard => Verdict::Discard,
        Write::RetryNow => Verdict::Retry {
            after: Duration::ZERO,
            error,
        },
        Write::RetryLater => Verdict::Retry { after, error },
        Write::Snooze => Verdict::Snooze { after },
        Write::Release => Verdict::Release,
        Write::Dead => Verdict::Dead {
            reason: DeadReason::Rejected,
            error,
        },
    }
}
