//! A storage in memory with one defect, or none: what `MemoryStorage` does, written again so that
//! each rule can be broken by itself.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use async_trait::async_trait;
use futures_util::lock::{Mutex as AsyncMutex, MutexGuard as AsyncGuard};
use outbox_core::{
    BoxStream, Claim, ClaimRequest, Due, Error, ErrorKind, Exchange, MessageId, NewMessage,
    Renewal, Renewed, Runtime, Settled, Settlement, Source, Storage, Verdict,
};

use crate::state::{State, refused};
use crate::table::Defect;

/// How many streams of hints a storage that keeps their connections can open.
const CONNECTIONS: usize = 10;

#[derive(Clone)]
pub(crate) struct Mutant(Arc<Shared>);

struct Shared {
    defect: Option<Defect>,
    /// Guards what is stored; never held while something is awaited.
    state: Mutex<State>,
    /// Guards the streams of hints, each by its number.
    streams: Mutex<Vec<Hints>>,
    /// The only connection of a storage whose renewals wait for its other calls.
    connection: AsyncMutex<()>,
}

struct Hints {
    queues: Vec<Arc<str>>,
    hinted: bool,
    waker: Option<Waker>,
}

impl Mutant {
    pub(crate) fn new(defect: Option<Defect>) -> Self {
        Self(Arc::new(Shared {
            defect,
            state: Mutex::new(State::new(defect)),
            streams: Mutex::default(),
            connection: AsyncMutex::new(()),
        }))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Hints>> {
        let streams = self.0.streams.lock();
        streams.unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, defect: Defect) -> bool {
        self.0.defect == Some(defect)
    }

    fn connect(&self, operation: &'static str) -> Result<(), Error> {
        let out = self.has(Defect::StreamsKeepConnections) && self.streams().len() >= CONNECTIONS;
        match out {
            true => Err(Error::new(
                ErrorKind::Unavailable,
                operation,
                "no connection is left",
            )),
            false => Ok(()),
        }
    }

    /// Takes the only connection for a call that takes its time.
    async fn only_connection(&self) -> Option<AsyncGuard<'_, ()>> {
        if !self.has(Defect::RenewalsWaitForCalls) {
            return None;
        }
        let connection = self.0.connection.lock().await;
        pause().await;
        Some(connection)
    }

    fn hint(&self, queues: &[String]) {
        let mut streams = self.streams();
        let hinted = match self.has(Defect::OneStreamIsHinted) {
            true => streams.len().min(1),
            false if self.has(Defect::NothingGivesAHint) => 0,
            false => streams.len(),
        };
        for stream in &mut streams[..hinted] {
            if stream
                .queues
                .iter()
                .any(|own| queues.contains(&own.to_string()))
            {
                stream.hinted = true;
                if let Some(waker) = stream.waker.take() {
                    waker.wake();
                }
            }
        }
    }

    /// Settles one by one, with a pause after each.
    async fn settle_in_steps(&self, settlements: &[Settlement]) -> Result<Settled, Error> {
        let mut settled = Settled::default();
        for settlement in settlements {
            let one = self.state().settle(std::slice::from_ref(settlement))?;
            settled.written.extend(one.written);
            pause().await;
        }
        Ok(settled)
    }

    /// Takes the picked messages out of the table, pauses, and puts them back.
    async fn claim_from_outside(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        let out: BTreeMap<_, _> = {
            let mut state = self.state();
            let mut picked = match request.source {
                Source::Pending => state.pick_pending(request),
                _ => state.pick_expired(request),
            };
            picked.truncate(request.limit);
            let take = |id| Some((id, state.messages.remove(&id)?));
            picked.into_iter().filter_map(take).collect()
        };
        pause().await;
        let mut state = self.state();
        state.messages.extend(out);
        state.claim(request)
    }

    /// Picks, pauses, and leases what was picked without another look.
    async fn claim_in_two_steps(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        let picked = match request.source {
            Source::Pending => self.state().pick_pending(request),
            _ => self.state().pick_expired(request),
        };
        pause().await;
        let mut claim = Claim::default();
        let mut state = self.state();
        match request.source {
            Source::Pending => state.lease_pending(&picked, request, &mut claim),
            _ => state.lease_expired(&picked, request, &mut claim)?,
        }
        state.tell_next_times(request, &mut claim);
        Ok(claim)
    }
}

#[async_trait]
impl Storage for Mutant {
    async fn check(&self) -> Result<(), Error> {
        match self.has(Defect::ChecksFail) {
            true => Err(refused("check")),
            false => Ok(()),
        }
    }

    async fn enqueue(&self, messages: Vec<NewMessage>) -> Result<Vec<Option<MessageId>>, Error> {
        self.connect("enqueue")?;
        let due = messages.iter().filter(|new| new.due == Due::Now);
        let queues: Vec<_> = due.map(|new| new.queue.to_string()).collect();
        let alone = messages.len() == 1;
        let written = if self.has(Defect::EnqueuesInSteps) {
            let mut written = Vec::new();
            for new in messages {
                written.extend(self.state().enqueue(vec![new])?);
                pause().await;
            }
            written
        } else {
            self.state().enqueue(messages)?
        };
        if !(alone && self.has(Defect::LoneMessagesGiveNoHint)) {
            self.hint(&queues);
        }
        Ok(written)
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        self.connect("claim")?;
        let _connection = self.only_connection().await;
        let (races, takes_out) = match request.source {
            Source::Pending => (Defect::ClaimsRace, Defect::ClaimsTakeOutFirst),
            _ => (Defect::TakeoversRace, Defect::TakeoversTakeOutFirst),
        };
        if self.has(races) && !request.resume {
            return self.claim_in_two_steps(request).await;
        }
        if self.has(takes_out) && !request.resume {
            return self.claim_from_outside(request).await;
        }
        self.state().claim(request)
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Settled, Error> {
        self.connect("settle")?;
        let _connection = self.only_connection().await;
        if self.has(Defect::SettlesInSteps) {
            return self.settle_in_steps(settlements).await;
        }
        if self.has(Defect::SettlesRaceWithTakeovers) {
            let held: Vec<_> = {
                let state = self.state();
                let held = settlements.iter().map(|one| state.may_settle(one));
                held.collect()
            };
            pause().await;
            return Ok(Settled::new(self.state().write(settlements, &held)));
        }
        self.state().settle(settlements)
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed, Error> {
        self.connect("renew")?;
        let _connection = self.only_connection().await;
        if self.has(Defect::RenewalsTakeTheLeaseOff) {
            let ids = || renewals.iter().map(|renewal| renewal.held.id);
            let leases: Vec<_> = {
                let mut state = self.state();
                let mut take = |id| Some((id, state.messages.get_mut(&id)?.lease.take()));
                ids().filter_map(&mut take).collect()
            };
            pause().await;
            let mut state = self.state();
            for (id, lease) in leases {
                if let Some(message) = state.messages.get_mut(&id) {
                    message.lease = lease;
                }
            }
            return state.renew(renewals);
        }
        self.state().renew(renewals)
    }

    async fn exchange(&self, settlements: &[Settlement], request: &ClaimRequest) -> Exchange {
        let settled = if settlements.is_empty() && self.has(Defect::AnEmptyExchangeFails) {
            Err(refused("exchange"))
        } else if self.has(Defect::ExchangesInSteps) {
            self.settle_in_steps(settlements).await
        } else if self.has(Defect::ExchangesAreNotFenced) {
            Ok(self.state().settle_unfenced(settlements))
        } else if self.has(Defect::ExchangesWriteOneOutcome) {
            let mut settlements = settlements.to_vec();
            for settlement in &mut settlements {
                settlement.verdict = Verdict::Done;
            }
            self.state().settle(&settlements)
        } else {
            self.state().settle(settlements)
        };
        let mut request = request.clone();
        request.resume &= !self.has(Defect::ExchangesCannotBeResumed);
        if self.has(Defect::ExchangesTakeNothingOver) {
            request.source = Source::Pending;
        }
        let claim = match self.has(Defect::ExchangesDoNotClaim) {
            true => Ok(Claim::default()),
            false => self.state().claim(&request),
        };
        Exchange::new(settled, claim)
    }

    fn wake_ups(&self, queues: Vec<Arc<str>>, _: Arc<dyn Runtime>) -> BoxStream<'static, ()> {
        let own = {
            let mut streams = self.streams();
            streams.push(Hints {
                queues,
                hinted: false,
                waker: None,
            });
            streams.len() - 1
        };
        let mutant = self.clone();
        Box::pin(futures_util::stream::unfold((), move |()| {
            let mutant = mutant.clone();
            poll_fn(move |context| {
                let stream = &mut mutant.streams()[own];
                let hinted = std::mem::take(&mut stream.hinted);
                if hinted || mutant.has(Defect::HintsHaveNoEnd) {
                    return Poll::Ready(Some(((), ())));
                }
                stream.waker = Some(context.waker().clone());
                Poll::Pending
            })
        }))
    }
}

/// Lets others run, once.
async fn pause() {
    let mut paused = false;
    poll_fn(|context| {
        if std::mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
