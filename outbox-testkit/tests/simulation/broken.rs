//! Storages that break one rule each, which the simulation has to find.

use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::{
    BoxStream, Claim, ClaimRequest, Error, Housekeeping, MemoryStorage, MessageId, NewMessage,
    Renewal, Renewed, Runtime, Settled, Settlement, Source, Storage, Verdict,
};

#[derive(Clone, Copy)]
pub(crate) enum Defect {
    /// A settle does not compare the token.
    NotFenced,
    /// A retry deletes the message.
    RetriesAreLost,
    /// A release deletes the message.
    ReleasesAreLost,
    /// A message that dies by its outcome is deleted.
    DeadLettersAreLost,
    /// Every message is due at once.
    NothingWaits,
    /// A claim of expired leases takes those that have not ended as well.
    TakesOverTooEarly,
}

pub(crate) struct Broken {
    pub(crate) memory: MemoryStorage,
    pub(crate) defect: Defect,
}

impl Broken {
    fn holder(&self, settlement: &Settlement) -> Settlement {
        let messages = self.memory.messages();
        let message = messages.iter().find(|message| message.id == settlement.id);
        let mut settlement = settlement.clone();
        if let Some((token, _)) = message.and_then(|message| message.lease) {
            settlement.token = token;
        }
        settlement
    }

    /// The settlement, as one that deletes the message if this is its outcome.
    fn lost(settlement: &Settlement, lost: fn(&Verdict) -> bool) -> Settlement {
        let mut settlement = settlement.clone();
        if lost(&settlement.verdict) {
            settlement.verdict = Verdict::Done;
        }
        settlement
    }
}

#[async_trait]
impl Storage for Broken {
    async fn enqueue(&self, messages: Vec<NewMessage>) -> Result<Vec<Option<MessageId>>, Error> {
        self.memory.enqueue(messages).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        let too_early = matches!(self.defect, Defect::TakesOverTooEarly);
        if too_early && request.source == Source::Expired {
            self.memory.expire_leases();
        }
        if matches!(self.defect, Defect::NothingWaits) {
            self.memory.make_due();
        }
        self.memory.claim(request).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Settled, Error> {
        let written = |one| match self.defect {
            Defect::NotFenced => self.holder(one),
            Defect::RetriesAreLost => Self::lost(one, |it| matches!(it, Verdict::Retry { .. })),
            Defect::ReleasesAreLost => Self::lost(one, |it| *it == Verdict::Release),
            Defect::DeadLettersAreLost => Self::lost(one, |it| matches!(it, Verdict::Dead { .. })),
            Defect::NothingWaits | Defect::TakesOverTooEarly => one.clone(),
        };
        let settlements: Vec<_> = settlements.iter().map(written).collect();
        self.memory.settle(&settlements).await
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed, Error> {
        self.memory.renew(renewals).await
    }

    async fn housekeep(&self) -> Result<Housekeeping, Error> {
        self.memory.housekeep().await
    }

    fn wake_ups(&self, queues: Vec<Arc<str>>, runtime: Arc<dyn Runtime>) -> BoxStream<'static, ()> {
        self.memory.wake_ups(queues, runtime)
    }
}
