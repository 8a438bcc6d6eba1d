//! `FaultStorage`: a storage whose calls go wrong as a test plans, or as a seed decides.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use futures_channel::oneshot;
use outbox_core::{
    BoxFuture, BoxStream, Claim, ClaimRequest, Error, ErrorKind, Exchange, Housekeeping, MessageId,
    NewMessage, Renewal, Renewed, Runtime, Settled, Settlement, Storage,
};

/// What can go wrong: the calls of [`Storage`]. An exchange is a settle and a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// [`Storage::check`].
    Check,
    /// [`Storage::enqueue`].
    Enqueue,
    /// [`Storage::claim`], also as a part of an exchange.
    Claim,
    /// [`Storage::settle`], also as a part of an exchange.
    Settle,
    /// [`Storage::renew`].
    Renew,
}

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It does not.
    None,
    /// It fails with a transient error, and has no effect.
    Before,
    /// It takes effect, and fails with a transient error: the reply is lost.
    After,
    /// It never answers, and has no effect.
    Hang,
    /// It takes effect, and never answers.
    HangAfter,
    /// It takes effect and answers after this time, even if the caller has given up or died: it
    /// was on its way.
    Delay(Duration),
    /// It takes effect at once, and answers after this time.
    SlowReply(Duration),
    /// It takes effect twice, and answers what it answered first.
    Duplicate,
    /// It fails with an error that repeating does not mend, and has no effect.
    Refuse,
}

/// How likely each fault is in each call, from 0 to 1; their sum is at most 1. Times are spread
/// evenly up to [`longest`](Self::longest).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Odds {
    /// [`Fault::Before`].
    pub before: f64,
    /// [`Fault::After`].
    pub after: f64,
    /// [`Fault::Hang`].
    pub hang: f64,
    /// [`Fault::HangAfter`].
    pub hang_after: f64,
    /// [`Fault::Delay`].
    pub delay: f64,
    /// [`Fault::SlowReply`].
    pub slow_reply: f64,
    /// [`Fault::Duplicate`].
    pub duplicate: f64,
    /// The longest delay or reply.
    pub longest: Duration,
}

impl Odds {
    /// Nothing goes wrong.
    pub const NEVER: Self = Self {
        before: 0.0,
        after: 0.0,
        hang: 0.0,
        hang_after: 0.0,
        delay: 0.0,
        slow_reply: 0.0,
        duplicate: 0.0,
        longest: Duration::from_secs(1),
    };

    /// Every transient fault has the same odds.
    #[must_use]
    pub const fn each(odds: f64) -> Self {
        Self {
            before: odds,
            after: odds,
            hang: odds,
            hang_after: odds,
            delay: odds,
            slow_reply: odds,
            duplicate: odds,
            ..Self::NEVER
        }
    }

    /// The same, with this longest delay or reply.
    #[must_use]
    pub const fn longest(mut self, longest: Duration) -> Self {
        self.longest = longest;
        self
    }

    fn draw(&self, rng: &mut Rng) -> Fault {
        let time = self.longest.mul_f64(rng.f64());
        let mut left = rng.f64();
        for (odds, fault) in [
            (self.before, Fault::Before),
            (self.after, Fault::After),
            (self.hang, Fault::Hang),
            (self.hang_after, Fault::HangAfter),
            (self.delay, Fault::Delay(time)),
            (self.slow_reply, Fault::SlowReply(time)),
            (self.duplicate, Fault::Duplicate),
        ] {
            if left < odds {
                return fault;
            }
            left -= odds;
        }
        Fault::None
    }
}

/// A storage in front of another, whose calls go wrong as planned with [`plan`](Self::plan), and
/// otherwise as the seed decides. Clones are the same storage.
///
/// ```
/// use std::sync::Arc;
/// use outbox_core::{MemoryStorage, Storage};
/// use outbox_testkit::{Fault, FaultStorage, Operation, SimRuntime};
///
/// let sim = SimRuntime::new(1);
/// let storage = FaultStorage::new(Arc::new(MemoryStorage::new()), Arc::new(sim.clone()));
/// storage.plan(Operation::Settle, [Fault::None, Fault::After]);
/// sim.block_on(async {
///     assert!(storage.settle(&[]).await.is_ok());
///     assert!(storage.settle(&[]).await.is_err_and(|error| error.is_transient()));
///     assert!(storage.settle(&[]).await.is_ok());
/// });
/// ```
#[derive(Clone)]
pub struct FaultStorage {
    storage: Arc<dyn Storage>,
    runtime: Arc<dyn Runtime>,
    /// Guards the plans; never held while something is awaited.
    plans: Arc<Mutex<Plans>>,
}

struct Plans {
    planned: HashMap<Operation, VecDeque<Fault>>,
    odds: Odds,
    rng: Rng,
    struck: usize,
}

impl FaultStorage {
    /// A storage whose calls go right until something is planned. The runtime is where delayed
    /// calls wait.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, runtime: Arc<dyn Runtime>) -> Self {
        Self::seeded(storage, runtime, 0, Odds::NEVER)
    }

    /// A storage whose calls go wrong as the seed decides.
    #[must_use]
    pub fn seeded(
        storage: Arc<dyn Storage>,
        runtime: Arc<dyn Runtime>,
        seed: u64,
        odds: Odds,
    ) -> Self {
        let plans = Plans {
            planned: HashMap::new(),
            odds,
            rng: Rng::with_seed(seed),
            struck: 0,
        };
        Self {
            storage,
            runtime,
            plans: Arc::new(Mutex::new(plans)),
        }
    }

    /// Plans the next calls of this operation, after those that are planned already.
    pub fn plan(&self, operation: Operation, faults: impl IntoIterator<Item = Fault>) {
        let mut plans = self.plans();
        let planned = plans.planned.entry(operation).or_default();
        planned.extend(faults);
    }

    /// From now on the seed goes by these odds.
    pub fn set_odds(&self, odds: Odds) {
        self.plans().odds = odds;
    }

    /// From now on every call goes right. What is delayed still arrives.
    pub fn heal(&self) {
        let mut plans = self.plans();
        plans.planned.clear();
        plans.odds = Odds::NEVER;
    }

    /// How many calls went wrong.
    #[must_use]
    pub fn struck(&self) -> usize {
        self.plans().struck
    }

    fn plans(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, operation: Operation) -> Fault {
        let mut plans = self.plans();
        let plans = &mut *plans;
        let planned = plans.planned.get_mut(&operation);
        let fault = planned
            .and_then(VecDeque::pop_front)
            .unwrap_or_else(|| plans.odds.draw(&mut plans.rng));
        plans.struck += usize::from(fault != Fault::None);
        fault
    }

    /// Makes the call, which may be made twice or after its caller is gone, with this fault.
    async fn strike<T: Send + 'static>(
        &self,
        operation: &'static str,
        fault: Fault,
        call: impl Fn(Arc<dyn Storage>) -> BoxFuture<'static, Result<T, Error>>,
    ) -> Result<T, Error> {
        let call = || call(Arc::clone(&self.storage));
        let fail = |kind| Err(Error::new(kind, operation, "a fault was injected"));
        match fault {
            Fault::None => call().await,
            Fault::Before => fail(ErrorKind::Unavailable),
            Fault::After => {
                call().await?;
                fail(ErrorKind::Unavailable)
            }
            Fault::Hang => pending().await,
            Fault::HangAfter => {
                drop(call().await);
                pending().await
            }
            Fault::Delay(time) => {
                let (sender, answer) = oneshot::channel();
                let (arrival, call) = (self.runtime.sleep(time), call());
                self.runtime.spawn(Box::pin(async move {
                    arrival.await;
                    // Nobody hears the answer if the caller is gone.
                    let _ = sender.send(call.await);
                }));
                answer
                    .await
                    .unwrap_or_else(|_| fail(ErrorKind::Unavailable))
            }
            Fault::SlowReply(time) => {
                let answer = call().await;
                self.runtime.sleep(time).await;
                answer
            }
            Fault::Duplicate => {
                let answer = call().await;
                drop(call().await);
                answer
            }
            Fault::Refuse => fail(ErrorKind::Storage),
        }
    }

    async fn claim_with(&self, fault: Fault, request: &ClaimRequest) -> Result<Claim, Error> {
        let request = request.clone();
        self.strike("claim", fault, move |storage| {
            let request = request.clone();
            Box::pin(async move { storage.claim(&request).await })
        })
        .await
    }

    async fn settle_with(&self, fault: Fault, all: &[Settlement]) -> Result<Settled, Error> {
        let all = all.to_vec();
        self.strike("settle", fault, move |storage| {
            let all = all.clone();
            Box::pin(async move { storage.settle(&all).await })
        })
        .await
    }
}

impl std::fmt::Debug for FaultStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultStorage")
            .field("struck", &self.struck())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Storage for FaultStorage {
    async fn check(&self) -> Result<(), Error> {
        self.strike("check", self.draw(Operation::Check), |storage| {
            Box::pin(async move { storage.check().await })
        })
        .await
    }

    async fn enqueue(&self, messages: Vec<NewMessage>) -> Result<Vec<Option<MessageId>>, Error> {
        self.strike("enqueue", self.draw(Operation::Enqueue), move |storage| {
            let messages = messages.clone();
            Box::pin(async move { storage.enqueue(messages).await })
        })
        .await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        self.claim_with(self.draw(Operation::Claim), request).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Settled, Error> {
        let fault = self.draw(Operation::Settle);
        self.settle_with(fault, settlements).await
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed, Error> {
        let renewals = renewals.to_vec();
        self.strike("renew", self.draw(Operation::Renew), move |storage| {
            let renewals = renewals.clone();
            Box::pin(async move { storage.renew(&renewals).await })
        })
        .await
    }

    /// In one call if nothing goes wrong, and otherwise in two.
    async fn exchange(&self, settlements: &[Settlement], request: &ClaimRequest) -> Exchange {
        let settle = match settlements {
            [] => Fault::None,
            _ => self.draw(Operation::Settle),
        };
        let claim = self.draw(Operation::Claim);
        if settle == Fault::None && claim == Fault::None {
            return self.storage.exchange(settlements, request).await;
        }
        let settled = match settlements {
            [] => Ok(Settled::default()),
            _ => self.settle_with(settle, settlements).await,
        };
        Exchange::new(settled, self.claim_with(claim, request).await)
    }

    fn concurrent_exchanges(&self) -> usize {
        self.storage.concurrent_exchanges()
    }

    fn worthwhile_exchanges(&self) -> usize {
        self.storage.worthwhile_exchanges()
    }

    /// Never goes wrong here: no promise depends on it.
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
