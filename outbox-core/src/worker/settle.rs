//! The settlements that wait to be written, or to be asked for again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt, HashSet};

use crate::lease::Held;
use crate::message::MessageId;
use crate::outcome::{Settlement, Verdict};
use crate::storage::{Claimed, Settled};
use crate::telemetry::{About, Written};

/// Most settlements of one call.
const MAX_SETTLE: usize = 1_000;

/// A settlement and what has to be known to tell about it.
pub(super) struct Pending {
    pub(super) settlement: Settlement,
    pub(super) queue: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) attempt: u16,
    pub(super) duration: Duration,
    /// A call that held this settlement failed, and may have written it.
    asked_before: bool,
    /// How often it could not be written by a call of its own; then it goes alone.
    times_alone: u32,
}

impl Pending {
    /// Copies what it needs of the message, whose payload can be dropped.
    pub(super) fn new(message: &Claimed, verdict: Verdict, duration: Duration) -> Self {
        Self {
            settlement: Settlement::new(message.held(), verdict),
            queue: Arc::clone(&message.queue),
            kind: Arc::clone(&message.kind),
            attempt: message.attempt,
            duration,
            asked_before: false,
            times_alone: 0,
        }
    }

    pub(super) fn about(&self) -> About<'_> {
        About::new(self.settlement.id, &self.queue, &self.kind, self.attempt)
    }

    pub(super) fn held(&self) -> Held {
        Held {
            id: self.settlement.id,
            token: self.settlement.token,
        }
    }

    /// Whether it could not be written before.
    const fn is_troubled(&self) -> bool {
        self.asked_before || self.times_alone > 0
    }

    pub(super) fn written(&self) -> Written {
        match &self.settlement.verdict {
            Verdict::Done => Written::Done,
            Verdict::Discard => Written::Discarded,
            Verdict::Retry { after, .. } => Written::Retried(*after),
            Verdict::Snooze { after } => Written::Snoozed(*after),
            Verdict::Release => Written::Released,
            Verdict::Dead { reason, .. } => Written::Dead(*reason),
        }
    }
}

/// How a settlement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Written,
    Lost,
    /// Asked twice, and the first reply was lost.
    Unresolved,
}

/// How long a settlement waits that could not be written by a call of its own, or whose message
/// somebody keeps locked: once this, then twice, and so on up to [`MOST_PAUSES`] times.
const PAUSE: Duration = Duration::from_secs(1);
const MOST_PAUSES: u32 = 5;
/// So many settlements that failed alone are not each to blame: the storage is.
const MOST_DELAYED: usize = 3;
/// So many settlements may wait for messages that somebody keeps locked, which is not the
/// storage's fault, before nothing more is claimed.
const MOST_LOCKED: usize = 1_000;

/// Names a call that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Call(u64);

/// Settlements that wait for an exchange, and those that are under way with one.
pub(super) struct Outgoing {
    waiting: Vec<Pending>,
    asked: HashMap<Call, Vec<Pending>>,
    calls: u64,
    /// Those that cannot be written, and when to ask for each again: alone, so that they hold up
    /// no others.
    delayed: Vec<(Instant, Pending)>,
    /// The last call was about one of those: the next is about the waiting ones, if there are any,
    /// because many that each take their time would leave no turn to them.
    delayed_went: bool,
    /// How many of all these could not be written before. While there are none, nobody looks for them.
    troubled: usize,
    /// The most settlements of one call: half of a call that failed, which may have been too
    /// large or held one that cannot be written; twice of one that succeeded.
    ceiling: usize,
}

impl Default for Outgoing {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            asked: HashMap::new(),
            calls: 0,
            delayed: Vec::new(),
            delayed_went: false,
            troubled: 0,
            ceiling: MAX_SETTLE,
        }
    }
}

impl Outgoing {
    pub(super) fn push(&mut self, pending: Pending) {
        self.waiting.push(pending);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.asked.is_empty() && self.delayed.is_empty()
    }

    /// How many wait that are not delayed.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether something is to be asked now.
    pub(super) fn has_waiting(&self, now: Instant) -> bool {
        !self.waiting.is_empty() || self.next_delayed().is_some_and(|at| at <= now)
    }

    /// When a delayed settlement is asked again, whose message is not in a call.
    pub(super) fn next_delayed(&self) -> Option<Instant> {
        if self.delayed.is_empty() {
            return None;
        }
        let under_way = self.under_way();
        let free = self.delayed.iter();
        let free = free.filter(|(_, one)| !under_way.contains(&one.settlement.id));
        free.map(|(at, _)| *at).min()
    }

    /// The messages of calls that are under way.
    fn under_way(&self) -> HashSet<MessageId> {
        let asked = self.asked.values().flatten();
        asked.map(|one| one.settlement.id).collect()
    }

    /// Whether outcomes cannot be written at present: what runs now would wait with them.
    pub(super) fn is_stuck(&self) -> bool {
        if self.troubled == 0 {
            return false;
        }
        let (mut alone, mut failed_alone) = (0, 0);
        for pending in self.all() {
            if pending.times_alone > 0 {
                alone += 1;
                failed_alone += usize::from(pending.asked_before);
            } else if pending.asked_before {
                return true;
            }
        }
        failed_alone > MOST_DELAYED || alone > MOST_LOCKED
    }

    /// Also those that are under way: nothing is known of them yet.
    fn all(&self) -> impl Iterator<Item = &Pending> {
        let delayed = self.delayed.iter().map(|(_, pending)| pending);
        let under_way = self.asked.values().flatten();
        self.waiting.iter().chain(delayed).chain(under_way)
    }

    /// Whether some outcome could not be written yet.
    pub(super) fn has_failed(&self) -> bool {
        self.troubled > 0 && self.all().any(|pending| pending.asked_before)
    }

    /// Takes what goes with the next call: at most one settlement for each message, and none for a
    /// message of a call that is under way.
    pub(super) fn ask(&mut self, now: Instant) -> Option<(Call, Vec<Settlement>)> {
        let under_way = self.under_way();
        let turn = !self.delayed_went || self.waiting.is_empty();
        let due = || {
            self.delayed
                .iter()
                .position(|(at, one)| *at <= now && !under_way.contains(&one.settlement.id))
        };
        let due = turn.then(due).flatten();
        self.delayed_went = due.is_some();
        let asked = if let Some(place) = due {
            vec![self.delayed.swap_remove(place).1]
        } else {
            self.take_waiting(under_way)
        };
        if asked.is_empty() {
            return None;
        }
        let settlements = asked.iter().map(|one| one.settlement.clone()).collect();
        let call = Call(self.calls);
        self.calls += 1;
        self.asked.insert(call, asked);
        Some((call, settlements))
    }

    /// Takes waiting ones about other messages than these.
    fn take_waiting(&mut self, mut ids: HashSet<MessageId>) -> Vec<Pending> {
        let most = self.ceiling + ids.len();
        let taken = self.waiting.extract_if(.., |pending| {
            ids.len() < most && ids.insert(pending.settlement.id)
        });
        taken.collect()
    }

    /// Takes back what went with this call.
    fn end(&mut self, call: Call) -> Vec<Pending> {
        self.asked.remove(&call).unwrap_or_default()
    }

    /// The call answered. Returns those whose fate is known.
    pub(super) fn answered(
        &mut self,
        call: Call,
        settled: &Settled,
        now: Instant,
    ) -> Vec<(Pending, Fate)> {
        self.ceiling = self.ceiling.saturating_mul(2).min(MAX_SETTLE);
        let written: HashSet<_> = settled.written.iter().copied().collect();
        let busy: HashSet<_> = settled.busy.iter().copied().collect();
        let asked = self.end(call);
        let mut known = Vec::with_capacity(asked.len());
        for pending in asked {
            let id = pending.settlement.id;
            self.troubled -= usize::from(pending.is_troubled());
            if written.contains(&id) {
                known.push((pending, Fate::Written));
            } else if busy.contains(&id) {
                self.delay(pending, now);
            } else if pending.asked_before {
                known.push((pending, Fate::Unresolved));
            } else {
                known.push((pending, Fate::Lost));
            }
        }
        known
    }

    fn delay(&mut self, mut pending: Pending, now: Instant) {
        pending.times_alone = (pending.times_alone + 1).min(MOST_PAUSES);
        self.troubled += 1;
        self.delayed
            .push((now + PAUSE * pending.times_alone, pending));
    }

    /// The call failed and is repeated, in smaller parts; a single settlement waits, as it may be
    /// to blame itself.
    pub(super) fn failed(&mut self, call: Call, now: Instant) {
        let mut asked = self.end(call);
        for pending in &mut asked {
            self.troubled -= usize::from(pending.is_troubled());
            pending.asked_before = true;
        }
        if asked.len() > 1 {
            self.troubled += asked.len();
            self.ask_by_halves(asked);
        } else if let Some(pending) = asked.pop() {
            self.delay(pending, now);
        }
    }

    /// The call was refused for good. A batch is asked again in smaller parts; a single settlement
    /// is given up and returned, and its message comes back when its lease ends.
    pub(super) fn refused(&mut self, call: Call) -> Option<Pending> {
        let mut asked = self.end(call);
        if asked.len() > 1 {
            self.ask_by_halves(asked);
            return None;
        }
        let refused = asked.pop();
        self.troubled -= usize::from(refused.as_ref().is_some_and(Pending::is_troubled));
        refused
    }

    /// Puts the settlements of a call back, first in the next exchange.
    fn ask_by_halves(&mut self, mut asked: Vec<Pending>) {
        self.ceiling = (asked.len() / 2).max(1);
        asked.append(&mut self.waiting);
        self.waiting = asked;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::LeaseToken;

    fn outgoing(count: i64) -> Outgoing {
        let mut outgoing = Outgoing::default();
        for id in 1..=count {
            let held = Held {
                id: MessageId(id),
                token: LeaseToken::random(),
            };
            let message = Claimed::new(held, Arc::from("q"), Arc::from("k"), Vec::new());
            outgoing.push(Pending::new(&message, Verdict::Done, Duration::ZERO));
        }
        outgoing
    }

    #[test]
    fn parts_shrink_with_each_failure_and_grow_with_each_success() {
        let now = Instant::now();
        let mut outgoing = outgoing(100);
        for size in [100, 50, 25] {
            let (call, settlements) = outgoing.ask(now).expect("some wait");
            assert_eq!(settlements.len(), size);
            outgoing.failed(call, now);
        }
        for size in [12, 24, 48, 16] {
            let (call, settlements) = outgoing.ask(now).expect("some wait");
            let ids = settlements.iter().map(|one| one.id).collect();
            let known = outgoing.answered(call, &Settled::new(ids), now);
            assert_eq!(known.len(), size);
        }
        assert!(outgoing.is_empty());
    }

    #[test]
    fn a_message_is_in_one_call_at_a_time() {
        let now = Instant::now();
        let mut outgoing = outgoing(2);
        let (first, settlements) = outgoing.ask(now).expect("some wait");
        assert_eq!(settlements.len(), 2);
        // The same message again, of a later delivery, and another one.
        for id in [2, 3] {
            let held = Held {
                id: MessageId(id),
                token: LeaseToken::random(),
            };
            let message = Claimed::new(held, Arc::from("q"), Arc::from("k"), Vec::new());
            outgoing.push(Pending::new(&message, Verdict::Done, Duration::ZERO));
        }
        let (second, settlements) = outgoing.ask(now).expect("some wait");
        assert_eq!(settlements.len(), 1);
        assert_eq!(settlements[0].id, MessageId(3));
        let known = outgoing.answered(first, &Settled::new(vec![MessageId(1)]), now);
        let fates: Vec<_> = known.iter().map(|(_, fate)| *fate).collect();
        assert_eq!(fates, [Fate::Written, Fate::Lost]);
        outgoing.failed(second, now);
        let (_, settlements) = outgoing.ask(now).expect("some wait");
        assert_eq!(settlements.len(), 1);
        assert_eq!(settlements[0].id, MessageId(2));
        assert!(
            outgoing.has_failed(),
            "the one that waits to be asked again"
        );
    }

    #[test]
    fn a_message_that_waits_for_its_turn_alone_is_in_one_call_at_a_time() {
        let now = Instant::now();
        let mut outgoing = outgoing(1);
        let (first, _) = outgoing.ask(now).expect("one waits");
        outgoing.failed(first, now);
        // A later delivery of the same message ends meanwhile.
        let held = Held {
            id: MessageId(1),
            token: LeaseToken::random(),
        };
        let message = Claimed::new(held, Arc::from("q"), Arc::from("k"), Vec::new());
        outgoing.push(Pending::new(&message, Verdict::Done, Duration::ZERO));
        let (later, settlements) = outgoing.ask(now).expect("one waits");
        assert_eq!(settlements[0].token, held.token);
        let due = now + PAUSE;
        assert!(outgoing.ask(due).is_none(), "its message is under way");
        outgoing.answered(later, &Settled::new(vec![MessageId(1)]), due);
        let (last, _) = outgoing.ask(due).expect("the first one");
        let known = outgoing.answered(last, &Settled::default(), due);
        assert_eq!(known[0].1, Fate::Unresolved);
    }

    #[test]
    fn calls_side_by_side_are_each_as_large_as_one() {
        let now = Instant::now();
        let mut outgoing = outgoing(100);
        let (call, _) = outgoing.ask(now).expect("some wait");
        outgoing.failed(call, now);
        for size in [50, 50] {
            let (_, settlements) = outgoing.ask(now).expect("some wait");
            assert_eq!(settlements.len(), size);
        }
        assert!(outgoing.ask(now).is_none());
    }
}
