//! `MemoryStorage` is what the reference model says, with priorities and without. That the model finds
//! storages that are not is tested beside the mutants.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{
    Cancel, Claim, ClaimRequest, Error, MemoryStorage, MessageId, NewMessage, Renewal, Renewed,
    Runtime, Settled, Settlement, Storage,
};
use outbox_testkit::conformance::{
    Capability, DeadLetterState, MemorySubject, MessageState, PROPERTIES, Subject,
};
use outbox_testkit::model;
use outbox_testkit::{FaultStorage, Odds, SimRuntime};

#[test]
fn the_memory_storage_is_what_the_model_says() {
    model::check(512, |steps| {
        SimRuntime::new(1).block_on(async { model::replay(&MemorySubject::new(), steps).await });
    });
}

#[test]
fn a_storage_may_decline_priorities() {
    for property in PROPERTIES {
        SimRuntime::new(1)
            .block_on(async { property.check_unless_declined(&Patient::new()).await });
    }
    model::check(128, |steps| {
        SimRuntime::new(1).block_on(async { model::replay(&Patient::new(), steps).await });
    });
}

/// A storage without priorities.
struct Patient(MemorySubject);

impl Patient {
    fn new() -> Self {
        Self(MemorySubject::wrapped(|memory, _| {
            Arc::new(Unhurried(memory))
        }))
    }
}

struct Unhurried(MemoryStorage);

#[async_trait]
impl Storage for Unhurried {
    async fn enqueue(
        &self,
        mut messages: Vec<NewMessage>,
    ) -> Result<Vec<Option<MessageId>>, Error> {
        messages.iter_mut().for_each(|new| new.priority = 0);
        self.0.enqueue(messages).await
    }
    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        self.0.claim(request).await
    }
    async fn settle(&self, settlements: &[Settlement]) -> Result<Settled, Error> {
        self.0.settle(settlements).await
    }
    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed, Error> {
        self.0.renew(renewals).await
    }
}

#[async_trait]
impl Subject for Patient {
    fn storage(&self) -> Arc<dyn Storage> {
        self.0.storage()
    }
    fn runtime(&self) -> Arc<dyn Runtime> {
        self.0.runtime()
    }
    async fn expire_leases(&self) {
        self.0.expire_leases().await;
    }
    async fn make_due(&self) {
        self.0.make_due().await;
    }
    async fn state(&self, id: MessageId) -> Option<MessageState> {
        self.0.state(id).await
    }
    async fn dead_letters(&self) -> Vec<DeadLetterState> {
        self.0.dead_letters().await
    }
    async fn cancel(&self, id: MessageId) -> Cancel {
        self.0.cancel(id).await
    }
    fn declines(&self) -> &[Capability] {
        &[
            Capability::Priorities,
            Capability::Transactions,
            Capability::WakeUps,
        ]
    }
}

#[test]
fn a_storage_may_take_a_minute_for_all_steps() {
    let mut slow = Odds::NEVER.longest(Duration::from_secs(1));
    slow.slow_reply = 0.5;
    slow.delay = 0.5;
    let subject = || {
        MemorySubject::wrapped(|memory, sim| {
            let (memory, sim) = (Arc::new(memory), Arc::new(sim));
            Arc::new(FaultStorage::seeded(memory, sim, 7, slow))
        })
    };
    model::check(512, |steps| {
        SimRuntime::new(1).block_on(async { model::replay(&subject(), steps).await });
    });
}
