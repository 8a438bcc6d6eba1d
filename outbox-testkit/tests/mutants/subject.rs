//! A mutant as a subject of the suite.

use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::{Cancel, DEFAULT_MAX_PAYLOAD_BYTES, Draft, MessageId, Runtime, Storage};
use outbox_testkit::SimRuntime;
use outbox_testkit::conformance::{DeadLetterState, MessageState, Subject};

use crate::storage::Mutant;
use crate::table::Defect;

pub(crate) struct MutantSubject {
    mutant: Mutant,
    sim: SimRuntime,
}

impl MutantSubject {
    /// A subject on the running simulated runtime.
    pub(crate) fn new(defect: Option<Defect>) -> Self {
        let sim = SimRuntime::current().expect("the suite runs inside block_on");
        let mutant = Mutant::new(defect);
        let clock = mutant.clone();
        sim.on_advance(move |step| clock.state().now += step);
        Self { mutant, sim }
    }
}

#[async_trait]
impl Subject for MutantSubject {
    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.mutant.clone())
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(self.sim.clone())
    }

    async fn expire_leases(&self) {
        self.mutant.state().expire_leases();
    }

    async fn make_due(&self) {
        self.mutant.state().make_due();
    }

    async fn state(&self, id: MessageId) -> Option<MessageState> {
        let state = self.mutant.state();
        let message = state.messages.get(&id)?;
        let until =
            |instant: std::time::SystemTime| instant.duration_since(state.now).unwrap_or_default();
        Some(MessageState {
            attempts: message.attempts,
            lease_losses: message.losses,
            deliveries: message.deliveries,
            lease_left: message.lease.map(|(_, end)| until(end)),
            due_in: until(message.due),
            last_error: message.last_error.clone(),
        })
    }

    async fn dead_letters(&self) -> Vec<DeadLetterState> {
        let state = self.mutant.state();
        let letters = state.dead.iter().map(|dead| DeadLetterState {
            id: dead.id,
            queue: dead.message.new.queue.to_string(),
            kind: dead.message.new.kind.to_string(),
            headers: dead.message.new.headers.clone(),
            key: dead.message.new.key.clone(),
            group: dead.message.new.group.clone(),
            tag: dead.message.new.tag.clone(),
            attempts: dead.message.attempts,
            reason: dead.reason.as_str().to_owned(),
            payload: dead.message.new.payload.clone(),
            error: dead.message.last_error.clone(),
        });
        letters.collect()
    }

    async fn cancel(&self, id: MessageId) -> Cancel {
        self.mutant.state().cancel(id)
    }

    async fn enqueue_in_transaction(&self, messages: Vec<Draft>, commit: bool) {
        let mut state = self.mutant.state();
        if commit || state.has(Defect::EnqueuesOutsideTheTransaction) {
            let check = |draft: Draft| draft.check(DEFAULT_MAX_PAYLOAD_BYTES);
            let messages: Result<Vec<_>, _> = messages.into_iter().map(check).collect();
            let written = state.enqueue(messages.expect("the drafts are valid"));
            written.expect("no defect refuses them");
        }
    }
}
