//! What one worker sees of its storage: which of its outcomes were never answered.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use outbox_core::{
    BoxStream, Claim, ClaimRequest, Error, Exchange, Housekeeping, LeaseToken, MessageId,
    NewMessage, Renewal, Renewed, Runtime, Settled, Settlement, Storage,
};

/// A storage in front of the faults. Clones are the same.
#[derive(Clone)]
pub(crate) struct Front {
    storage: Arc<dyn Storage>,
    concurrent_exchanges: usize,
    /// How often it was asked how many of them are worth it.
    asked: Arc<AtomicUsize>,
    /// Exchanges and settles that are under way.
    under_way: Arc<AtomicUsize>,
    /// How many began while another was under way, in this world.
    beside: Arc<AtomicUsize>,
    /// Guards the outcomes that were sent and not answered, because the call failed or the worker
    /// gave it up; never held while something is awaited.
    unanswered: Arc<Mutex<BTreeSet<(MessageId, LeaseToken)>>>,
}

impl Front {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        concurrent_exchanges: usize,
        beside: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            storage,
            concurrent_exchanges,
            asked: Arc::default(),
            under_way: Arc::default(),
            beside,
            unanswered: Arc::default(),
        }
    }

    /// The messages whose outcomes the worker sent without an answer, and did not send again.
    pub(crate) fn given_up(&self) -> BTreeSet<MessageId> {
        self.unanswered().iter().map(|(id, _)| *id).collect()
    }

    fn unanswered(&self) -> MutexGuard<'_, BTreeSet<(MessageId, LeaseToken)>> {
        let unanswered = self.unanswered.lock();
        unanswered.unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> UnderWay {
        if self.under_way.fetch_add(1, Ordering::Relaxed) > 0 {
            self.beside.fetch_add(1, Ordering::Relaxed);
        }
        UnderWay(Arc::clone(&self.under_way))
    }

    fn sent(&self, settlements: &[Settlement]) {
        let sent = settlements.iter().map(|one| (one.id, one.token));
        self.unanswered().extend(sent);
    }

    fn answered(&self, settlements: &[Settlement], answer: &Result<Settled, Error>) {
        if answer.is_ok() {
            let mut unanswered = self.unanswered();
            for one in settlements {
                unanswered.remove(&(one.id, one.token));
            }
        }
    }
}

/// A call; it ends when it is answered, and when it is given up.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Storage for Front {
    async fn check(&self) -> Result<(), Error> {
        self.storage.check().await
    }

    async fn enqueue(&self, messages: Vec<NewMessage>) -> Result<Vec<Option<MessageId>>, Error> {
        self.storage.enqueue(messages).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        self.storage.claim(request).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Settled, Error> {
        let _under_way = self.begin();
        self.sent(settlements);
        let settled = self.storage.settle(settlements).await;
        self.answered(settlements, &settled);
        settled
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed, Error> {
        self.storage.renew(renewals).await
    }

    async fn exchange(&self, settlements: &[Settlement], request: &ClaimRequest) -> Exchange {
        let _under_way = self.begin();
        self.sent(settlements);
        let exchange = self.storage.exchange(settlements, request).await;
        self.answered(settlements, &exchange.settled);
        exchange
    }

    fn concurrent_exchanges(&self) -> usize {
        self.concurrent_exchanges
    }

    /// Others come and go.
    fn worthwhile_exchanges(&self) -> usize {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        asked / 20 % self.concurrent_exchanges + 1
    }

    async fn housekeep(&self) -> Result<Housekeeping, Error> {
        self.storage.housekeep().await
    }

    fn is_untidy(&self) -> bool {
        self.storage.is_untidy()
    }

    fn wake_ups(&self, queues: Vec<Arc<str>>, runtime: Arc<dyn Runtime>) -> BoxStream<'static, ()> {
        self.storage.wake_ups(queues, runtime)
    }
}
