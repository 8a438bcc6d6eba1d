//! `MemoryStorage` as a subject of the suite, by itself or behind a storage that wraps it.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use outbox_core::{Cancel, MemoryDeadLetter, MemoryStorage, MessageId, Runtime, Storage};

use super::{Capability, DeadLetterState, MessageState, Subject};
use crate::SimRuntime;

/// A new `MemoryStorage` on the simulated runtime, whose time it follows.
///
/// ```
/// use outbox_testkit::SimRuntime;
/// use outbox_testkit::conformance::MemorySubject;
///
/// fn block_on<F: Future>(future: F) -> F::Output {
///     SimRuntime::new(1).block_on(future)
/// }
///
/// outbox_testkit::conformance_suite!(MemorySubject::new(), block_on = block_on);
/// ```
pub struct MemorySubject {
    memory: MemoryStorage,
    storage: Arc<dyn Storage>,
    sim: SimRuntime,
}

impl MemorySubject {
    /// A subject on the simulated runtime that runs.
    ///
    /// # Panics
    /// Outside of [`SimRuntime::block_on`].
    #[must_use]
    pub fn new() -> Self {
        Self::wrapped(|memory, _| Arc::new(memory))
    }

    /// The same, tested through the storage that `wrap` makes of it.
    ///
    /// # Panics
    /// Outside of [`SimRuntime::block_on`].
    pub fn wrapped(wrap: impl FnOnce(MemoryStorage, SimRuntime) -> Arc<dyn Storage>) -> Self {
        let sim = SimRuntime::current().expect("a memory subject is made inside block_on");
        let memory = MemoryStorage::new();
        sim.drive(&memory);
        Self {
            storage: wrap(memory.clone(), sim.clone()),
            memory,
            sim,
        }
    }
}

impl Default for MemorySubject {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for MemorySubject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemorySubject").finish_non_exhaustive()
    }
}

#[async_trait]
impl Subject for MemorySubject {
    fn storage(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.storage)
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(self.sim.clone())
    }

    async fn expire_leases(&self) {
        self.memory.expire_leases();
    }

    async fn make_due(&self) {
        self.memory.make_due();
    }

    async fn state(&self, id: MessageId) -> Option<MessageState> {
        let now = self.memory.now();
        let until = |instant: SystemTime| instant.duration_since(now).unwrap_or_default();
        let messages = self.memory.messages();
        let message = messages.into_iter().find(|message| message.id == id)?;
        Some(MessageState {
            attempts: message.attempts,
            lease_losses: message.lease_losses,
            deliveries: message.deliveries,
            lease_left: message.lease.map(|(_, end)| until(end)),
            due_in: until(message.due),
            last_error: message.last_error,
        })
    }

    async fn dead_letters(&self) -> Vec<DeadLetterState> {
        let letter = |letter: MemoryDeadLetter| DeadLetterState {
            id: letter.message.id,
            queue: letter.message.queue.to_string(),
            kind: letter.message.kind.to_string(),
            headers: letter.message.headers,
            key: letter.message.key,
            group: letter.message.group,
            tag: letter.message.tag,
            attempts: letter.message.attempts,
            reason: letter.reason.as_str().to_owned(),
            payload: letter.message.payload,
            error: letter.message.last_error,
        };
        self.memory.dead_letters().into_iter().map(letter).collect()
    }

    fn declines(&self) -> &[Capability] {
        &[Capability::Transactions]
    }

    async fn cancel(&self, id: MessageId) -> Cancel {
        self.memory.cancel(id)
    }
}
