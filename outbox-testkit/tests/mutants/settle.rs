//! How a mutant settles and renews.

use std::time::Duration;

use outbox_core::{
    DeadReason, Error, LeaseToken, MessageId, Renewal, Renewed, Settled, Settlement, Verdict,
};

use crate::state::{State, refused};
use crate::table::Defect;

impl State {
    pub(crate) fn settle(&mut self, settlements: &[Settlement]) -> Result<Settled, Error> {
        self.refuse_unknown(settlements.iter().map(|one| one.id), "settle")?;
        self.refuse_many(settlements.len(), "settle")?;
        let any = |one: &Settlement| {
            self.has(Defect::SettlesPairAnyToken) && {
                let message = self.messages.get(&one.id);
                let mut tokens = settlements.iter().map(|one| one.token);
                message.is_some_and(|message| tokens.any(|token| message.is_held_by(token)))
            }
        };
        let held = settlements
            .iter()
            .map(|one| self.may_settle(one) || any(one));
        let held: Vec<bool> = held.collect();
        let written = self.write(settlements, &held);
        if self.has(Defect::OneRefusalHidesTheRest) && written.len() < settlements.len() {
            return Ok(Settled::default());
        }
        Ok(Settled::new(written))
    }

    /// Writes about whatever message is there, whoever holds it.
    pub(crate) fn settle_unfenced(&mut self, settlements: &[Settlement]) -> Settled {
        let held = |one: &Settlement| {
            let message = self.messages.get(&one.id);
            message.is_some_and(|message| message.lease.is_some())
        };
        let held: Vec<bool> = settlements.iter().map(held).collect();
        Settled::new(self.write(settlements, &held))
    }

    fn refuse_unknown(
        &self,
        mut ids: impl Iterator<Item = MessageId>,
        operation: &'static str,
    ) -> Result<(), Error> {
        let unknown = ids.any(|id| id.0 > self.last_id);
        match unknown && self.has(Defect::UnknownIdsFail) {
            true => Err(refused(operation)),
            false => Ok(()),
        }
    }

    pub(crate) fn may_settle(&self, settlement: &Settlement) -> bool {
        let Some(message) = self.messages.get(&settlement.id) else {
            return false;
        };
        let Some((holder, end)) = message.lease else {
            let again = message.former.released == Some(settlement.token);
            return again && self.has(Defect::ReleasesCanBeSettledAgain);
        };
        let token = Some(settlement.token);
        let late = end <= self.now && settlement.verdict == Verdict::Done;
        if late && self.has(Defect::LateWorkIsRefused) {
            return false;
        }
        holder == settlement.token
            || self.has(Defect::SettlesAreNotFenced)
            || self.has(Defect::FormerHoldersSettle) && message.former.lost == token
            || self.has(Defect::EarlierDeliveriesSettle) && message.former.retried == token
            || self.has(Defect::FirstDeliveriesAreNotFenced) && message.deliveries == 1
    }

    /// Writes the outcomes whose token was found to hold.
    pub(crate) fn write(&mut self, settlements: &[Settlement], held: &[bool]) -> Vec<MessageId> {
        let settlements = settlements.iter().zip(held);
        let settlements: Vec<_> = settlements.filter(|(_, held)| **held).collect();
        let mut first_delay = None;
        let mut first_error = None;
        for (settlement, _) in &settlements {
            let mut verdict = settlement.verdict.clone();
            match &mut verdict {
                Verdict::Retry { after, .. } | Verdict::Snooze { after } => {
                    let first = *first_delay.get_or_insert(*after);
                    if self.has(Defect::OneDelayForAll) {
                        *after = first;
                    }
                }
                Verdict::Dead { error, .. } => {
                    let first = first_error.get_or_insert_with(|| error.clone());
                    if self.has(Defect::OneErrorForAllTheDead) {
                        error.clone_from(first);
                    }
                }
                _ => {}
            }
            self.apply(settlement.id, settlement.token, verdict);
        }
        settlements.iter().map(|(one, _)| one.id).collect()
    }

    fn apply(&mut self, id: MessageId, token: LeaseToken, verdict: Verdict) {
        match verdict {
            Verdict::Discard if self.has(Defect::DiscardsAreDeadLetters) => {
                self.bury(id, DeadReason::Rejected);
            }
            Verdict::Discard if self.has(Defect::DiscardsKeepTheirKeys) => {
                self.keep_key(id);
                self.messages.remove(&id);
            }
            Verdict::Retry { after, error } => self.retry(id, token, after, error),
            Verdict::Snooze { after } => self.snooze(id, token, after),
            Verdict::Release => {
                self.release(id);
                if let Some(message) = self.messages.get_mut(&id) {
                    message.former.released = Some(token);
                }
            }
            Verdict::Dead { reason, error } => {
                if let Some(message) = self.messages.get_mut(&id) {
                    message.last_error = Some(error);
                    if self.defect == Some(Defect::TheDeadLoseTheirHeaders) {
                        message.new.headers.0.clear();
                    }
                }
                let exhausted = self.has(Defect::CrashesAreKeptAsExhausted);
                self.bury(
                    id,
                    match reason {
                        DeadReason::Crashed if exhausted => DeadReason::Exhausted,
                        reason => reason,
                    },
                );
            }
            _ => {
                self.messages.remove(&id);
            }
        }
    }

    fn retry(&mut self, id: MessageId, token: LeaseToken, after: Duration, error: String) {
        let keep_losses = self.has(Defect::RetriesKeepLosses);
        let backs_off = self.has(Defect::RetriesBackOff);
        let forget = self.has(Defect::RetriesForgetHeaders);
        let one_line = self.has(Defect::ErrorsAreOneLine);
        let short = self.has(Defect::ErrorsAreShort);
        let charge = u16::from(self.has(Defect::AttemptsAreCountedAtSettle));
        let (now, after) = (self.now, self.cut(after, Defect::RetriesHaveALimit));
        let Some(message) = self.messages.get_mut(&id) else {
            return;
        };
        let pause = match backs_off && message.attempts > 1 {
            true => Duration::from_secs(1),
            false => Duration::ZERO,
        };
        message.attempts += charge;
        message.due = now + after.max(pause);
        message.lease = None;
        message.former.retried = Some(token);
        if !keep_losses {
            message.losses = 0;
        }
        if forget {
            message.new.headers.0.clear();
        }
        let first_line = error.lines().next().unwrap_or_default().to_owned();
        let error = if one_line { first_line } else { error };
        message.last_error = Some(match short {
            true => error.chars().take(1_000).collect(),
            false => error,
        });
    }

    fn snooze(&mut self, id: MessageId, token: LeaseToken, after: Duration) {
        let refund = u32::from(self.has(Defect::SnoozesRefundDeliveries));
        let forget = self.has(Defect::SnoozesForgetTheError);
        let (now, after) = (self.now, self.cut(after, Defect::SnoozesHaveALimit));
        if let Some(message) = self.messages.get_mut(&id) {
            message.due = now + after;
            message.lease = None;
            message.former.snoozed = Some(token);
            message.losses = 0;
            message.attempts = message.attempts.saturating_sub(1);
            message.deliveries -= refund;
            message.last_error = message.last_error.take().filter(|_| !forget);
        }
    }

    pub(crate) fn release(&mut self, id: MessageId) {
        let (to_the_end, not_refunded) = (
            self.has(Defect::ReleasesGoToTheEnd),
            self.has(Defect::TakeoversAreNotRefunded),
        );
        let now = self.now;
        if let Some(message) = self.messages.get_mut(&id) {
            message.lease = None;
            if !(not_refunded && message.losses > 0) {
                message.attempts = message.attempts.saturating_sub(1);
            }
            if to_the_end {
                message.due = now;
            }
        }
    }

    pub(crate) fn renew(&mut self, renewals: &[Renewal]) -> Result<Renewed, Error> {
        if renewals.is_empty() && self.has(Defect::AnEmptyRenewFails) {
            return Err(refused("renew"));
        }
        self.refuse_unknown(renewals.iter().map(|one| one.held.id), "renew")?;
        self.refuse_many(renewals.len(), "renew")?;
        let tokens: Vec<_> = renewals.iter().map(|one| one.held.token).collect();
        let mut answer = Renewed::default();
        let first = renewals.first().map(|renewal| renewal.lease_ttl);
        for renewal in renewals {
            let one_ttl = first.filter(|_| self.has(Defect::OneTtlForAllRenewals));
            let lease_ttl = one_ttl.unwrap_or(renewal.lease_ttl);
            if self.renew_one(renewal, lease_ttl, &tokens) {
                answer.renewed.push(renewal.held.id);
            } else {
                answer.lost.push(renewal.held.id);
            }
        }
        if !answer.lost.is_empty() && self.has(Defect::OneLossHidesTheRest) {
            answer.lost.append(&mut answer.renewed);
        }
        Ok(answer)
    }

    /// Renews one of several that are presented with these tokens.
    fn renew_one(&mut self, renewal: &Renewal, lease_ttl: Duration, tokens: &[LeaseToken]) -> bool {
        let (token, end) = (renewal.held.token, self.now + lease_ttl);
        let now = self.now;
        let former = self.has(Defect::FormerHoldersRenew);
        let any = self.has(Defect::RenewalsPairAnyToken);
        let resurrect = self.has(Defect::RenewalsResurrect);
        let undo = self.has(Defect::RenewalsUndoASnooze);
        let shorten = self.has(Defect::RenewalsShorten);
        let late_is_lost = self.has(Defect::LateRenewalsAreRefused);
        let counted = u32::from(self.has(Defect::RenewalsCountADelivery));
        let Some(message) = self.messages.get_mut(&renewal.held.id) else {
            return false;
        };
        let Some((holder, old_end)) = &mut message.lease else {
            let back = resurrect || undo && message.former.snoozed == Some(token);
            if back {
                message.lease = Some((token, end));
            }
            return back;
        };
        let holds = *holder == token
            || former && message.former.lost == Some(token)
            || any && tokens.contains(holder);
        if !holds || late_is_lost && *old_end <= now {
            return false;
        }
        *old_end = if shorten { end } else { end.max(*old_end) };
        message.deliveries += counted;
        true
    }
}
