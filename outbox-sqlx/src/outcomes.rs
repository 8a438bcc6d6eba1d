//! A batch of outcomes, sorted by what becomes of the messages.

use std::time::Duration;

use outbox_core::{Held, Settlement, Verdict, clip_error};

/// What a settle writes, each list in id order.
#[derive(Default)]
pub(crate) struct Outcomes {
    pub(crate) deleted: Vec<Held>,
    pub(crate) returned: Vec<Returned>,
    pub(crate) buried: Vec<Buried>,
}

/// A message to make available again.
pub(crate) struct Returned {
    pub(crate) held: Held,
    /// From now; `None` keeps the due time.
    pub(crate) delay: Option<Duration>,
    /// Whether the attempt is given back.
    pub(crate) refund: bool,
    /// Whether the losses start again at zero.
    pub(crate) forgive: bool,
    /// `None` keeps the error before.
    pub(crate) error: Option<String>,
}

/// A message to keep as a dead letter.
pub(crate) struct Buried {
    pub(crate) held: Held,
    pub(crate) reason: &'static str,
    pub(crate) error: String,
}

impl Outcomes {
    pub(crate) fn new(settlements: &[Settlement]) -> Self {
        let mut sorted: Vec<&Settlement> = settlements.iter().collect();
        // The lock order of every batch writer; without it two batches can wait for each other.
        sorted.sort_by_key(|settlement| settlement.id);
        let mut outcomes = Self::default();
        for settlement in sorted {
            outcomes.add(settlement);
        }
        outcomes
    }

    fn add(&mut self, settlement: &Settlement) {
        let held = Held {
            id: settlement.id,
            token: settlement.token,
        };
        let released = Returned {
            held,
            delay: None,
            refund: true,
            forgive: false,
            error: None,
        };
        match &settlement.verdict {
            Verdict::Done | Verdict::Discard => self.deleted.push(held),
            Verdict::Retry { after, error } => self.returned.push(Returned {
                delay: Some(*after),
                refund: false,
                forgive: true,
                error: Some(clip_error(error.clone())),
                ..released
            }),
            Verdict::Snooze { after } => self.returned.push(Returned {
                delay: Some(*after),
                forgive: true,
                ..released
            }),
            Verdict::Dead { reason, error } => self.buried.push(Buried {
                held,
                reason: reason.as_str(),
                error: clip_error(error.clone()),
            }),
            Verdict::Release => self.returned.push(released),
        }
    }
}
