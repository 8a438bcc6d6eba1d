//! The reference model: what a storage has to answer, as far as the documentation says so.

use std::collections::BTreeMap;
use std::time::Duration;

use outbox_core::{
    Claim, DeadReason, Held, LeaseToken, MAX_LEASE_LOSSES, MessageId, Settlement, Verdict,
};

use super::steps::New;

/// Milliseconds of the model's own clock: one to a step, and hours where a step says hours.
pub(super) type Instant = u64;

/// How long a queue's messages are leased for.
pub(super) const fn lease(queue: usize) -> u64 {
    [600_000, 1_200_000][queue]
}

pub(super) const HOUR: u64 = 3_600_000;

#[derive(Default)]
pub(super) struct Reference {
    pub(super) now: Instant,
    pub(super) live: BTreeMap<MessageId, Live>,
    /// Dead letters with their reason and error.
    pub(super) dead: BTreeMap<MessageId, (DeadReason, Option<String>)>,
}

#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) new: New,
    pub(super) due: Instant,
    pub(super) attempts: u16,
    pub(super) losses: u16,
    pub(super) deliveries: u32,
    pub(super) lease: Option<(LeaseToken, Instant)>,
    pub(super) error: Option<String>,
}

impl Live {
    fn is_held_by(&self, token: LeaseToken) -> bool {
        self.lease.is_some_and(|(holder, _)| holder == token)
    }

    /// The reason it dies of, if its lease is lost now.
    fn reason_to_die(&self) -> Option<DeadReason> {
        if self.losses + 1 >= MAX_LEASE_LOSSES {
            Some(DeadReason::Crashed)
        } else if self.attempts >= self.new.max_attempts {
            Some(DeadReason::LeaseExpired)
        } else {
            None
        }
    }

    fn end(&self) -> Option<Instant> {
        self.lease.map(|(_, end)| end)
    }

    fn release(&mut self) {
        self.lease = None;
        self.attempts = self.attempts.saturating_sub(1);
    }
}

impl Reference {
    /// Whether a message of this queue and key is live.
    pub(super) fn is_taken(&self, new: &New) -> bool {
        let same = |live: &Live| live.new.queue == new.queue && live.new.key == new.key;
        new.key.is_some() && self.live.values().any(same)
    }

    pub(super) fn enqueue(&mut self, id: MessageId, new: New) {
        let live = Live {
            due: self.now + new.hours * HOUR,
            new,
            attempts: 0,
            losses: 0,
            deliveries: 0,
            lease: None,
            error: None,
        };
        self.live.insert(id, live);
    }

    /// What a claim of pending messages leases, in order.
    pub(super) fn claim_pending(
        &mut self,
        queues: &[usize],
        limit: usize,
        token: LeaseToken,
    ) -> Vec<MessageId> {
        let free = |live: &Live| live.lease.is_none() && live.due <= self.now;
        let mut ids = self.in_start_order(queues, free);
        ids.truncate(limit);
        for id in &ids {
            let live = self.live.get_mut(id).expect("it was found just now");
            live.attempts += 1;
            live.deliveries += 1;
            live.lease = Some((token, self.now + lease(live.new.queue)));
        }
        ids
    }

    /// What a resumed claim returns of what its token holds; `None` if that is nothing.
    pub(super) fn resume(
        &mut self,
        queues: &[usize],
        limit: usize,
        token: LeaseToken,
    ) -> Option<Vec<MessageId>> {
        let mut held = self.in_start_order(queues, |live| live.is_held_by(token));
        if held.is_empty() {
            return None;
        }
        let beyond = held.split_off(held.len().min(limit));
        for id in beyond {
            self.live.get_mut(&id).expect("it is held").release();
        }
        for id in &held {
            let live = self.live.get_mut(id).expect("it is held");
            live.lease = Some((token, self.now + lease(live.new.queue)));
        }
        Some(held)
    }

    fn in_start_order(&self, queues: &[usize], filter: impl Fn(&Live) -> bool) -> Vec<MessageId> {
        let place = |(id, live): (&MessageId, &Live)| {
            let rank = queues.iter().position(|queue| *queue == live.new.queue)?;
            filter(live).then_some((rank, live.new.priority, live.due, *id))
        };
        let mut places: Vec<_> = self.live.iter().filter_map(place).collect();
        places.sort_unstable();
        places.into_iter().map(|(_, _, _, id)| id).collect()
    }

    /// Follows a claim of expired leases, which may choose between several; says what it may not.
    pub(super) fn claim_expired(
        &mut self,
        queues: &[usize],
        limit: usize,
        token: LeaseToken,
        claim: &Claim,
    ) -> Result<(), String> {
        let expired = |live: &Live| live.end().is_some_and(|end| end <= self.now);
        let expired = self.in_start_order(queues, expired);
        let taken: Vec<_> = claim.messages.iter().map(|claimed| claimed.id).collect();
        if taken.len() > limit {
            return Err(format!(
                "{} messages, and the limit is {limit}",
                taken.len()
            ));
        }
        if !expired.is_empty() && taken.is_empty() && claim.dead.is_empty() {
            return Err(format!("nothing is taken over of {expired:?}"));
        }
        self.check_choice(&expired, &taken)?;
        for dead in &claim.dead {
            let live = self
                .live
                .get(&dead.id)
                .filter(|_| expired.contains(&dead.id));
            if live.and_then(Live::reason_to_die) != Some(dead.reason) {
                return Err(format!(
                    "message {} may not die of {}",
                    dead.id, dead.reason
                ));
            }
            self.bury(dead.id, dead.reason);
        }
        for id in taken {
            let live = self.live.get_mut(&id).ok_or("a dead letter is delivered")?;
            live.losses += 1;
            live.deliveries += 1;
            live.lease = Some((token, self.now + lease(live.new.queue)));
        }
        Ok(())
    }

    fn check_choice(&self, expired: &[MessageId], taken: &[MessageId]) -> Result<(), String> {
        for id in taken {
            let live = self.live.get(id).filter(|_| expired.contains(id));
            let live = live.ok_or_else(|| format!("message {id} has no expired lease"))?;
            if live.reason_to_die().is_some() {
                return Err(format!("message {id} is delivered and should have died"));
            }
            if live.losses > 0 && taken.len() > 1 {
                return Err(format!("message {id} was lost before and is not alone"));
            }
            // Within a queue the oldest end comes first; one that was lost before may be left.
            let older = |other: &&MessageId| {
                let other = &self.live[*other];
                let fit = other.losses == 0 && other.reason_to_die().is_none();
                fit && other.new.queue == live.new.queue && other.end() < live.end()
            };
            let passed = expired.iter().filter(older).find(|id| !taken.contains(id));
            if let Some(passed) = passed.filter(|_| live.losses == 0) {
                return Err(format!(
                    "message {id} is taken before {passed}, which ended first"
                ));
            }
        }
        Ok(())
    }

    /// Writes what the token may write; false if it may not.
    pub(super) fn settle(&mut self, settlement: &Settlement) -> bool {
        let Settlement {
            id, token, verdict, ..
        } = settlement;
        let now = self.now;
        let Some(live) = self.live.get_mut(id).filter(|live| live.is_held_by(*token)) else {
            return false;
        };
        let later = |after: &Duration| now + after.as_millis() as u64;
        match verdict {
            Verdict::Retry { after, error } => {
                live.due = later(after);
                live.error = Some(error.clone());
                live.losses = 0;
                live.lease = None;
            }
            Verdict::Snooze { after } => {
                live.due = later(after);
                live.losses = 0;
                live.release();
            }
            Verdict::Release => live.release(),
            Verdict::Dead { reason, error } => {
                live.error = Some(error.clone());
                self.bury(*id, *reason);
            }
            _ => {
                self.live.remove(id);
            }
        }
        true
    }

    /// Renews what the token may renew; false if it may not.
    pub(super) fn renew(&mut self, held: Held, ttl: u64) -> bool {
        let now = self.now;
        let live = self.live.get_mut(&held.id);
        match live.and_then(|live| live.lease.as_mut()) {
            Some((token, end)) if *token == held.token => {
                *end = (now + ttl).max(*end);
                true
            }
            _ => false,
        }
    }

    pub(super) fn expire(&mut self) {
        let latest = self.live.values().filter_map(Live::end).max();
        let left = latest.unwrap_or(0).saturating_sub(self.now);
        for (_, end) in self
            .live
            .values_mut()
            .filter_map(|live| live.lease.as_mut())
        {
            // The model's clock begins late enough for this.
            *end -= left;
        }
    }

    pub(super) fn make_due(&mut self) {
        for live in self.live.values_mut() {
            live.due = live.due.min(self.now);
        }
    }

    fn bury(&mut self, id: MessageId, reason: DeadReason) {
        if let Some(live) = self.live.remove(&id) {
            self.dead.insert(id, (reason, live.error));
        }
    }
}
