//! Claims that race are found even where no call ever waits: a storage that looks and writes under
//! one lock each, and not both under one, is wrong only between threads.

#[path = "support/threads.rs"]
mod threads;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::executor::block_on;
use outbox_core::{
    Claim, ClaimRequest, Claimed, Error, MemoryStorage, MessageId, NewMessage, Renewal, Renewed,
    Runtime, Settled, Settlement, Storage,
};
use outbox_testkit::conformance::{DeadLetterState, MessageState, Property, Subject};
use threads::Threads;

/// The first claim stands still between its look and its write until another one has looked, for so
/// long at most.
const PATIENCE: Duration = Duration::from_secs(20);

struct Racing {
    memory: MemoryStorage,
    /// Guards how far the first two claims have come.
    race: Mutex<Race>,
    moved: Condvar,
}

enum Race {
    NobodyLooks,
    FirstLooks,
    FirstSaw(Vec<Claimed>),
    BothSaw,
}

impl Racing {
    /// Whether this claim is the first one.
    fn begins(&self) -> bool {
        let mut race = self.race.lock().expect("nobody panics");
        let begins = matches!(*race, Race::NobodyLooks);
        if begins {
            *race = Race::FirstLooks;
        }
        begins
    }

    fn wait_for_the_second(&self, messages: &[Claimed]) {
        let mut race = self.race.lock().expect("nobody panics");
        *race = Race::FirstSaw(messages.to_vec());
        self.moved.notify_all();
        let alone = |race: &mut Race| !matches!(race, Race::BothSaw);
        let waited = self.moved.wait_timeout_while(race, PATIENCE, alone);
        *waited.expect("nobody panics").0 = Race::BothSaw;
    }

    /// What the first claim saw, for the second one.
    fn see_the_same(&self) -> Option<Vec<Claimed>> {
        let race = self.race.lock().expect("nobody panics");
        let looks = |race: &mut Race| matches!(race, Race::FirstLooks);
        let waited = self.moved.wait_timeout_while(race, PATIENCE, looks);
        let mut race = waited.expect("nobody panics").0;
        let Race::FirstSaw(messages) = &mut *race else {
            return None;
        };
        let messages = std::mem::take(messages);
        *race = Race::BothSaw;
        self.moved.notify_all();
        Some(messages)
    }
}

#[async_trait]
impl Storage for Racing {
    async fn enqueue(&self, messages: Vec<NewMessage>) -> Result<Vec<Option<MessageId>>, Error> {
        self.memory.enqueue(messages).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        if self.begins() {
            let claim = self.memory.claim(request).await?;
            self.wait_for_the_second(&claim.messages);
            return Ok(claim);
        }
        let Some(mut messages) = self.see_the_same() else {
            return self.memory.claim(request).await;
        };
        for message in &mut messages {
            message.token = request.token;
        }
        Ok(Claim::new(messages))
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Settled, Error> {
        self.memory.settle(settlements).await
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed, Error> {
        self.memory.renew(renewals).await
    }
}

struct RacingSubject(Arc<Racing>);

#[async_trait]
impl Subject for RacingSubject {
    fn storage(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.0) as Arc<dyn Storage>
    }
    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(Threads)
    }
    async fn expire_leases(&self) {
        self.0.memory.expire_leases();
    }
    async fn make_due(&self) {
        self.0.memory.make_due();
    }
    async fn state(&self, id: MessageId) -> Option<MessageState> {
        panic!("nobody asks for message {id}");
    }
    async fn dead_letters(&self) -> Vec<DeadLetterState> {
        panic!("nobody asks for dead letters");
    }
}

#[test]
fn a_race_between_threads_is_caught() {
    let racing = RacingSubject(Arc::new(Racing {
        memory: MemoryStorage::new(),
        race: Mutex::new(Race::NobodyLooks),
        moved: Condvar::new(),
    }));
    let exclusive = Property::find("LEASE-02").expect("it is in the list");
    let check = || block_on((exclusive.check)(&racing));
    let panic = catch_unwind(AssertUnwindSafe(check)).expect_err("two claims lease the same");
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.expect("the panic has a text");
    assert!(
        text.contains("delivered twice") || text.contains("each exactly once"),
        "{text}"
    );
}
