//! How a mutant claims: picking messages and leasing them are two steps, between which a defect
//! may let others in.

use std::cmp::Reverse;
use std::time::Duration;

use outbox_core::{
    Claim, ClaimRequest, Claimed, DeadLettered, DeadReason, Error, MessageId, Source,
};

use crate::state::{State, refused};
use crate::table::Defect;

impl State {
    pub(crate) fn claim(&mut self, request: &ClaimRequest) -> Result<Claim, Error> {
        self.refuse_many(request.limit, "claim")?;
        let mut claim = Claim::default();
        if request.resume && !self.has(Defect::ResumingClaimsAnew) {
            self.resume(request, &mut claim);
        }
        if claim.messages.is_empty() {
            match request.source {
                Source::Pending => {
                    let picked = self.pick_pending(request);
                    self.lease_pending(&picked, request, &mut claim);
                }
                _ => {
                    let picked = self.pick_expired(request);
                    self.lease_expired(&picked, request, &mut claim)?;
                }
            }
        }
        self.tell_next_times(request, &mut claim);
        Ok(claim)
    }

    fn resume(&mut self, request: &ClaimRequest, claim: &mut Claim) {
        let held = self.in_start_order(request, |state, id| {
            state.messages[&id].is_held_by(request.token)
        });
        let (again, beyond) = held.split_at(held.len().min(request.limit));
        for id in again {
            let charge = u16::from(self.has(Defect::ResumingChargesAgain));
            let loss = self.has(Defect::ResumingCountsALoss) && request.source == Source::Expired;
            if let Some(message) = self.messages.get_mut(id) {
                message.attempts += charge;
                message.losses += u16::from(loss);
            }
            if !self.has(Defect::ResumingDoesNotRenew) {
                self.lease(*id, request);
            }
            claim.messages.push(self.delivery(*id, request));
        }
        for id in beyond {
            let kept = match request.source {
                Source::Pending => Defect::ResumingKeepsTheRest,
                Source::Expired => Defect::ResumedTakeoversKeepTheRest,
            };
            if !self.has(kept)
                && let Some(message) = self.messages.get_mut(id)
            {
                message.lease = None;
                message.attempts = message.attempts.saturating_sub(1);
            }
        }
    }

    pub(crate) fn pick_pending(&self, request: &ClaimRequest) -> Vec<MessageId> {
        let available = self.in_start_order(request, |state, id| {
            let message = &state.messages[&id];
            let urgent = state.has(Defect::UrgentMessagesDoNotWait) && message.new.priority < 0;
            let free = match message.lease {
                None => true,
                Some((_, end)) if end <= state.now => state.has(Defect::PendingIncludesExpired),
                Some(_) => state.has(Defect::LeasesAreNotExclusive),
            };
            let due = message.due <= state.now || state.has(Defect::DueTimesAreIgnored);
            free && (due || urgent)
        });
        let limit = request.limit + usize::from(self.has(Defect::TheLimitIsExceeded));
        if self.has(Defect::TheLimitIsPerQueue) {
            let of = |rank| {
                let ids = available.iter().copied();
                ids.filter(move |id| self.rank(&self.messages[id], request) == Some(rank))
                    .take(request.limit)
            };
            return (0..request.queues.len()).flat_map(of).collect();
        }
        available.into_iter().take(limit).collect()
    }

    pub(crate) fn lease_pending(
        &mut self,
        picked: &[MessageId],
        request: &ClaimRequest,
        claim: &mut Claim,
    ) {
        let resumed = request.resume && self.has(Defect::ResumingAnewIsFree);
        let free = resumed || self.has(Defect::AttemptsAreCountedAtSettle);
        if self.has(Defect::LookingCountsADelivery) {
            for message in self.messages.values_mut().filter(|m| m.lease.is_some()) {
                message.deliveries += 1;
            }
        }
        for id in picked {
            let forget = self.has(Defect::ClaimsForgetTheError);
            let Some(message) = self.messages.get_mut(id) else {
                continue;
            };
            message.attempts += u16::from(!free);
            message.deliveries += 1;
            message.last_error = message.last_error.take().filter(|_| !forget);
            self.lease(*id, request);
            claim.messages.push(self.delivery(*id, request));
        }
        if claim.messages.is_empty() && self.has(Defect::IdleClaimsReviveTheDead) {
            self.revive(request, claim);
        }
    }

    fn revive(&mut self, request: &ClaimRequest, claim: &mut Claim) {
        if let Some(dead) = self.dead.pop() {
            self.messages.insert(dead.id, dead.message);
            self.lease(dead.id, request);
            claim.messages.push(self.delivery(dead.id, request));
        }
    }

    pub(crate) fn pick_expired(&self, request: &ClaimRequest) -> Vec<MessageId> {
        let served = self.messages.iter().filter(|(_, message)| {
            self.has(Defect::TakesOverFromAllQueues) || self.rank(message, request).is_some()
        });
        let mut expired: Vec<_> = served
            .filter_map(|(id, message)| match message.lease {
                Some(_) if self.has(Defect::LeasesNeverEnd) => None,
                Some((_, end)) => Some((end, *id)).filter(|_| end <= self.now),
                None => {
                    let fresh = message.deliveries == 0 && message.due <= self.now;
                    let taken = fresh && self.has(Defect::ExpiredIncludesFresh);
                    taken.then_some((self.now, *id))
                }
            })
            .collect();
        if self.has(Defect::TakeoversInIdOrder) {
            expired.sort_unstable_by_key(|(_, id)| *id);
        } else {
            expired.sort_unstable();
        }
        expired.into_iter().map(|(_, id)| id).collect()
    }

    pub(crate) fn lease_expired(
        &mut self,
        picked: &[MessageId],
        request: &ClaimRequest,
        claim: &mut Claim,
    ) -> Result<(), Error> {
        let per_queue = self.has(Defect::TheLimitOfTakeoversIsPerQueue);
        for id in picked {
            let Some(message) = self.messages.get(id) else {
                continue;
            };
            let of_queue = |claimed: &&Claimed| *claimed.queue == *message.new.queue;
            if per_queue && claim.messages.iter().filter(of_queue).count() == request.limit {
                continue;
            }
            let suspect = message.losses > 0;
            if let Some(reason) = self.reason_to_die(*id, request) {
                let (queue, kind) = (&*message.new.queue, &*message.new.kind);
                let dead = DeadLettered::new(*id, queue.into(), kind.into(), reason);
                claim.dead.push(dead);
                if self.has(Defect::TheLostKeepTheirKeys) {
                    self.keep_key(*id);
                }
                if self.has(Defect::TheLostForgetTheirError)
                    && let Some(message) = self.messages.get_mut(id)
                {
                    message.last_error = None;
                }
                self.bury(*id, reason);
            } else if claim.messages.is_empty()
                || !suspect
                || self.has(Defect::SuspectsComeTogether)
            {
                claim.messages.push(self.take_over(*id, request));
                let alone = suspect && !self.has(Defect::SuspectsComeTogether);
                if alone || (claim.messages.len() == request.limit && !per_queue) {
                    break;
                }
            }
        }
        if claim.dead.len() > request.limit && self.has(Defect::TheDeadOverflowTheLimit) {
            return Err(refused("claim"));
        }
        Ok(())
    }

    fn reason_to_die(&self, id: MessageId, request: &ClaimRequest) -> Option<DeadReason> {
        let message = &self.messages[&id];
        let allowed = self
            .rank(message, request)
            .and_then(|rank| request.queues[rank].max_attempts);
        let allowed = allowed.filter(|_| !self.has(Defect::QueuesAllowNoMore));
        let max_attempts = message.new.max_attempts.max(allowed.unwrap_or(0));
        let (attempts, losses) = (message.attempts, message.losses);
        if self.has(Defect::LossesHaveNoLimit) {
            return DeadReason::of_expired_lease(attempts, max_attempts, 0);
        }
        if self.has(Defect::LossesCountAsAttempts) {
            return DeadReason::of_expired_lease(losses + 1, max_attempts, losses);
        }
        DeadReason::of_expired_lease(attempts, max_attempts, losses)
    }

    fn take_over(&mut self, id: MessageId, request: &ClaimRequest) -> Claimed {
        let charge = u16::from(self.has(Defect::TakeoversChargeAnAttempt));
        let mut holder = None;
        if let Some(message) = self.messages.get_mut(&id) {
            holder = message.lease.map(|(token, _)| token);
            message.former.lost = holder;
            message.attempts += charge;
            message.losses += 1;
            message.deliveries += 1;
        }
        self.lease(id, request);
        let lease = self.messages.get_mut(&id).and_then(|m| m.lease.as_mut());
        if let (Some((token, _)), Some(holder)) = (lease, holder)
            && self.defect == Some(Defect::TokensAreReused)
        {
            *token = holder;
        }
        let mut claimed = self.delivery(id, request);
        if self.has(Defect::TakeoversForgetHeaders) {
            claimed.headers.0.clear();
        }
        claimed
    }

    fn lease(&mut self, id: MessageId, request: &ClaimRequest) {
        let rank = self.rank(&self.messages[&id], request).unwrap_or(0);
        let first = self.has(match request.source {
            Source::Pending => Defect::OneLeaseForAllQueues,
            _ => Defect::OneLeaseForAllTakeovers,
        });
        let lease_ttl = request.queues[if first { 0 } else { rank }].lease_ttl;
        let limit = match self.has(Defect::LeasesHaveALimit) {
            true => Duration::from_secs(12 * 3600),
            false => lease_ttl,
        };
        let end = self.now + lease_ttl.min(limit);
        if let Some(message) = self.messages.get_mut(&id) {
            message.lease = Some((request.token, end));
        }
    }

    fn delivery(&self, id: MessageId, request: &ClaimRequest) -> Claimed {
        self.messages[&id].claimed(id, request.token, self.now)
    }

    pub(crate) fn tell_next_times(&self, request: &ClaimRequest, claim: &mut Claim) {
        let told = self.has(Defect::DeathsHideTheNextTimes) && !claim.dead.is_empty();
        if !claim.messages.is_empty() || told {
            return;
        }
        let until = |instant: std::time::SystemTime| -> Duration {
            instant.duration_since(self.now).unwrap_or_default()
        };
        let all = self.messages.values();
        let first = self.has(Defect::NextTimesAreOfTheFirstQueue);
        let served = |message: &&crate::state::Stored| match self.rank(message, request) {
            None => false,
            Some(rank) => rank == 0 || !first,
        };
        let waiting = all.clone().filter(|message| message.lease.is_none());
        let waiting = waiting.filter(|one| self.has(Defect::NextDueIsOfAllQueues) || served(one));
        let one = self.has(Defect::NextDueIsOfOnePriority);
        let waiting = waiting.filter(|message| message.new.priority == 0 || !one);
        claim.next_due = waiting.map(|message| until(message.due)).min();
        let ends = all.filter(|one| self.has(Defect::NextExpiryIsOfAllQueues) || served(one));
        let ends = ends.filter_map(|message| message.lease);
        claim.next_expiry = ends.map(|(_, end)| until(end)).min();
    }

    /// The messages of the request's queues that pass the filter, in the order of their start.
    fn in_start_order(
        &self,
        request: &ClaimRequest,
        filter: impl Fn(&Self, MessageId) -> bool,
    ) -> Vec<MessageId> {
        let place = |id: MessageId| {
            let message = &self.messages[&id];
            let priority = match message.new.priority {
                _ if self.has(Defect::PrioritiesAreIgnored) => 0,
                -1..=1 if self.has(Defect::PrioritiesAreFew) => 0,
                priority => priority,
            };
            (self.rank(message, request), priority, message.due)
        };
        let served = |id: &MessageId| self.rank(&self.messages[id], request).is_some();
        let mut found: Vec<_> = self.messages.keys().copied().filter(served).collect();
        found.retain(|id| filter(self, *id));
        if found.len() > 50 && self.has(Defect::ManyTiesAreUnordered) {
            found.sort_unstable_by_key(|id| (place(*id), Reverse(*id)));
        } else {
            found.sort_unstable_by_key(|id| (place(*id), *id));
        }
        found
    }
}
