//! `MemoryStorage` keeps every rule of the conformance suite, on the simulated runtime.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::{Cancel, MemoryStorage, MessageId, Runtime, Storage};
use outbox_testkit::SimRuntime;
use outbox_testkit::conformance::{DeadLetterState, MessageState, PROPERTIES, Subject};

outbox_testkit::conformance_suite!(MemorySubject::new(), block_on = block_on);

struct MemorySubject {
    storage: MemoryStorage,
    sim: SimRuntime,
}

impl MemorySubject {
    fn new() -> Self {
        let sim = SimRuntime::current().expect("the suite runs inside block_on");
        let storage = MemoryStorage::new();
        sim.drive(&storage);
        Self { storage, sim }
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    SimRuntime::new(1).block_on(future)
}

#[async_trait]
impl Subject for MemorySubject {
    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.storage.clone())
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(self.sim.clone())
    }

    async fn expire_leases(&self) {
        self.storage.expire_leases();
    }

    async fn make_due(&self) {
        self.storage.make_due();
    }

    async fn state(&self, id: MessageId) -> Option<MessageState> {
        let now = self.storage.now();
        let messages = self.storage.messages();
        let message = messages.into_iter().find(|message| message.id == id)?;
        Some(MessageState {
            attempts: message.attempts,
            lease_losses: message.lease_losses,
            deliveries: message.deliveries,
            lease_left: message
                .lease
                .map(|(_, end)| end.duration_since(now).unwrap_or_default()),
            due_in: message.due.duration_since(now).unwrap_or_default(),
            last_error: message.last_error,
        })
    }

    async fn dead_letters(&self) -> Vec<DeadLetterState> {
        let letter = |letter: outbox_core::MemoryDeadLetter| DeadLetterState {
            id: letter.message.id,
            reason: letter.reason.as_str().to_owned(),
            payload: letter.message.payload,
            error: letter.message.last_error,
        };
        self.storage
            .dead_letters()
            .into_iter()
            .map(letter)
            .collect()
    }

    async fn cancel(&self, id: MessageId) -> Cancel {
        self.storage.cancel(id)
    }
}

#[test]
fn ids_and_names_of_properties_are_unique() {
    let ids: BTreeSet<_> = PROPERTIES.iter().map(|property| property.id).collect();
    let names: BTreeSet<_> = PROPERTIES.iter().map(|property| property.name).collect();
    assert_eq!(ids.len(), PROPERTIES.len());
    assert_eq!(names.len(), PROPERTIES.len());
}

#[test]
fn a_listed_property_can_be_checked_without_the_macro() {
    let property = PROPERTIES.iter().find(|property| property.id == "FENCE-01");
    let property = property.expect("it is in the list");
    block_on(async { (property.check)(&MemorySubject::new()).await });
}
