//! The agent: the one loop that owns a worker's state. Each turn reads what ended, starts what
//! is ready, and keeps an exchange with the storage in flight, or several where the storage works on
//! several at once; outcomes that come in meanwhile go with the next one, so that batches grow with
//! the load and no delay is ever added.

mod exchange;
mod phase;

use std::collections::VecDeque;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use futures_util::future::{FutureExt, poll_fn};
use futures_util::stream::{BoxStream, StreamExt};

use self::exchange::{Answer, UnderWay};
use self::phase::Phase;
use super::backoff::Backoff;
use super::claim::{Claiming, Holding};
use super::execute::{Finished, Inbox, Run, Shared};
use super::heartbeat::{Heartbeat, storage_panic, too_slow};
use super::housekeeping;
use super::registry::Registry;
use super::runners::{Runners, Slots};
use super::settle::{Outgoing, Pending};
use super::verdict::panic_message;
use super::{PreparedWorker, Settings};
use crate::error::{Error, ErrorKind};
use crate::handler::{Context, DataMap, Lease};
use crate::outcome::Verdict;
use crate::runtime::{timeout, yield_once};
use crate::storage::{Claimed, Storage};
use crate::telemetry::{About, Event, Report, add};

/// When a worker ends by itself.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    OnShutdown,
    WhenIdle { horizon: Duration },
}

/// How long a handler may block the runners before others are started beside them, and before the ends
/// that they left are read without being told of.
const RELIEF: Duration = Duration::from_millis(10);

/// However many a storage says.
const MOST_EXCHANGES: usize = 16;

pub(super) struct Agent {
    storage: Arc<dyn Storage>,
    registry: Arc<Registry>,
    data: Arc<DataMap>,
    settings: Settings,
    ending: Ending,
    shared: Arc<Shared>,
    runners: Arc<Runners>,
    /// When it looks after the runners, while it has to.
    next_look: Option<Instant>,
    claiming: Claiming,
    backoff: Backoff,
    /// Leased and not in line.
    ready: VecDeque<(Claimed, Lease)>,
    /// Runs in line, and those that began and whose ends are not read.
    running: usize,
    suspects: usize,
    outgoing: Outgoing,
    exchanges: Vec<UnderWay>,
    most_exchanges: usize,
    /// How many of those may be under way in this turn.
    worthwhile_exchanges: usize,
    /// When there may be one more than in this turn, even if that time is over before the worker sleeps.
    next_impatience: Option<Instant>,
    wake_ups: BoxStream<'static, ()>,
    phase: Phase,
    /// The last claim found some and was not answered in full, so that there is no hurry to ask for more:
    /// handlers that are ready at once begin before that, and their outcomes go with it.
    handlers_first: bool,
    idle: bool,
    /// Something was settled, or answered beside another call, since the worker last held nothing: a
    /// claim that was under way meanwhile could not tell whether it is idle.
    look_again: bool,
}

impl Agent {
    pub(super) fn new(worker: PreparedWorker, ending: Ending) -> Self {
        let queues = worker.registry.leases();
        let names = queues
            .iter()
            .map(|queue| Arc::clone(&queue.queue))
            .collect();
        let hints = worker.storage.wake_ups(names, Arc::clone(&worker.runtime));
        // It ends with its first panic, and then the poll is what remains.
        let hints = AssertUnwindSafe(hints).catch_unwind();
        let wake_ups = hints.filter_map(|hint| std::future::ready(hint.ok()));
        let most_exchanges = worker
            .storage
            .concurrent_exchanges()
            .clamp(1, MOST_EXCHANGES);
        let now = worker.runtime.now();
        let claiming = Claiming::new(queues, &worker.settings, most_exchanges, now);
        let shared = Arc::new(Shared {
            runtime: worker.runtime,
            shutdown: worker.shutdown,
            telemetry: worker.telemetry,
            leases: Arc::default(),
            slots: Slots::new(worker.settings.concurrency),
            inbox: Inbox::default(),
        });
        Self {
            storage: worker.storage,
            registry: worker.registry,
            data: worker.data,
            settings: worker.settings,
            ending,
            runners: Arc::new(Runners::new(Arc::clone(&shared))),
            shared,
            next_look: None,
            claiming,
            backoff: Backoff::default(),
            ready: VecDeque::new(),
            running: 0,
            suspects: 0,
            outgoing: Outgoing::default(),
            exchanges: Vec::new(),
            most_exchanges,
            worthwhile_exchanges: most_exchanges,
            next_impatience: None,
            wake_ups: Box::pin(wake_ups),
            phase: Phase::Claiming,
            handlers_first: false,
            idle: false,
            look_again: false,
        }
    }

    fn now(&self) -> Instant {
        self.shared.runtime.now()
    }

    pub(super) async fn run(mut self) -> Result<Report, Error> {
        if self.wait_for_storage().await? {
            let heartbeat = self.start_heartbeat()?;
            let housekeeper =
                housekeeping::start(&self.storage, &self.shared.runtime, &self.shared.telemetry);
            self.turn_until_drained().await;
            housekeeper.stop().await;
            heartbeat.stop().await;
        }
        Ok(self.shared.telemetry.counters.report())
    }

    /// Asks the storage whether it can be used until it answers. False if a shutdown came first.
    async fn wait_for_storage(&mut self) -> Result<bool, Error> {
        loop {
            if self.shared.shutdown.is_draining() {
                return Ok(false);
            }
            let (sent, limit) = (self.now(), self.settings.storage_timeout);
            let call = AssertUnwindSafe(self.storage.check()).catch_unwind();
            let answer = match timeout(&*self.shared.runtime, limit, call).await {
                Some(Ok(answer)) => answer,
                Some(Err(panic)) => Err(storage_panic("check", &panic_message(panic))),
                None => Err(too_slow("check", limit)),
            };
            match answer {
                Ok(()) => {
                    self.storage_answered(sent);
                    return Ok(true);
                }
                Err(error) if error.is_transient() => {
                    self.storage_failed(&error, sent);
                    // Hints end a turn and not the pause.
                    while self.backoff.pause(self.now()).is_some()
                        && !self.shared.shutdown.is_draining()
                    {
                        self.wait_turn().await;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn start_heartbeat(&self) -> Result<RunningHeartbeat, Error> {
        let shortest = self
            .registry
            .leases()
            .into_iter()
            .map(|queue| queue.lease_ttl)
            .min();
        let heartbeat = Heartbeat {
            leases: Arc::clone(&self.shared.leases),
            storage: Arc::clone(&self.storage),
            runtime: Arc::clone(&self.shared.runtime),
            telemetry: Arc::clone(&self.shared.telemetry),
            tick: shortest.unwrap_or(crate::lease::DEFAULT_LEASE_TTL) / 3,
        };
        let (stop, stopped) = futures_channel::oneshot::channel::<()>();
        let (sender, ended) = futures_channel::oneshot::channel::<()>();
        let task = async move {
            // Stops when told to, and as well when the agent is gone.
            heartbeat.run(stopped.map(drop)).await;
            drop(sender);
        };
        self.shared
            .runtime
            .spawn_thread("outbox-heartbeat", Box::pin(task))
            .map_err(|source| {
                Error::new(
                    ErrorKind::Runtime,
                    "run",
                    "the heartbeat's thread cannot be started",
                )
                .with_source(source)
            })?;
        Ok(RunningHeartbeat { stop, ended })
    }

    async fn turn_until_drained(&mut self) {
        loop {
            let now = self.now();
            // Before what has ended is read: nothing ends untold of between the last look and that.
            self.look_after_runners(now);
            // First what has ended: the end of a phase gives up what seems to run still.
            self.read_finished(now);
            self.advance_phase(now);
            self.start_ready(now);
            if std::mem::take(&mut self.handlers_first) {
                self.let_handlers_begin(now).await;
                // What ended meanwhile has left its place in the line to others.
                continue;
            }
            self.begin_exchanges(now);
            if self.is_over() {
                return;
            }
            self.wait_turn().await;
        }
    }

    fn read_finished(&mut self, now: Instant) {
        let finished = self.shared.inbox.take();
        if finished.is_empty() {
            return;
        }
        self.claiming.finished(finished.len(), now);
        let all = finished.iter().map(|finished| finished.message.held());
        let held = self.shared.leases.begin_settling(all);
        for (finished, held) in finished.into_iter().zip(held) {
            self.running -= 1;
            self.suspects -= usize::from(finished.message.is_suspect());
            self.decide(finished, held);
        }
    }

    fn decide(&mut self, finished: Finished, held: bool) {
        add(
            &self.shared.telemetry.counters.panicked,
            finished.panicked.into(),
        );
        add(
            &self.shared.telemetry.counters.timed_out,
            finished.timed_out.into(),
        );
        if !held {
            // The lease was lost while the handler ran, and that has been told.
            return;
        }
        match finished.verdict {
            Some(verdict) => {
                self.outgoing
                    .push(Pending::new(&finished.message, verdict, finished.duration))
            }
            None => self.shared.leases.end([finished.message.held()]),
        }
    }

    /// Settles a message that did not run.
    fn give_back(&mut self, message: &Claimed, verdict: Verdict) {
        self.suspects -= usize::from(message.is_suspect());
        if self.shared.leases.begin_settling([message.held()]) == [true] {
            self.outgoing
                .push(Pending::new(message, verdict, Duration::ZERO));
        }
    }

    /// Puts runs in line: for the slots, and as many to follow.
    fn start_ready(&mut self, now: Instant) {
        let most = self.settings.concurrency.saturating_mul(2);
        while self.running < most {
            let Some((message, lease)) = self.ready.pop_front() else {
                break;
            };
            if lease.is_lost() {
                self.suspects -= usize::from(message.is_suspect());
                continue;
            }
            self.start(message, lease, now);
        }
        self.runners.staff();
    }

    fn start(&mut self, mut message: Claimed, lease: Lease, now: Instant) {
        let Some(registration) = self.registry.find(&message.queue, &message.kind) else {
            self.give_back_unknown(&message);
            return;
        };
        if let Some(max_attempts) = registration.definition.max_attempts {
            message.max_attempts = max_attempts;
        }
        let context = Context::new(
            message,
            lease,
            Arc::clone(&self.data),
            Arc::clone(&self.shared.runtime),
        );
        let (registration, shared) = (Arc::clone(registration), Arc::clone(&self.shared));
        self.running += 1;
        self.runners
            .put(Run::new(context, registration, shared, now));
    }

    fn give_back_unknown(&mut self, message: &Claimed) {
        add(&self.shared.telemetry.counters.unknown_kind, 1);
        tracing::warn!(id = %message.id, queue = &*message.queue, kind = &*message.kind, "no handler is registered for this kind; given back with a delay");
        self.shared
            .telemetry
            .tell(&Event::UnknownKind(About::of(message)));
        let after = self.settings.unknown_kind_delay;
        self.give_back(message, Verdict::Snooze { after });
    }

    /// Whether runs are to be put in line soon.
    fn line_is_short(&self) -> bool {
        !self.ready.is_empty() && self.runners.waiting() <= self.settings.concurrency / 2
    }

    fn holding(&self) -> Holding {
        // What finds no slot in the line is in stock as well.
        let stocked = self.runners.stocked();
        Holding {
            running: self.running - stocked,
            ready: self.ready.len() + stocked,
            suspects: self.suspects,
            settles: false,
        }
    }

    /// Lets the runners take their first turn, those of them that were started for what is in line.
    async fn let_handlers_begin(&mut self, now: Instant) {
        yield_once().await;
        // Beside another exchange it does not sleep: that one makes no progress meanwhile.
        if !self.exchanges.is_empty() || !self.runners.are_to_begin() {
            return;
        }
        // A runtime may have another thread take the agent up at once, before the one that has the runners
        // comes to them, and on the processor which that one needs. So it sleeps, and asks for nothing.
        if self.has_to_look() {
            self.next_look = Some(now + RELIEF);
        }
        let begun = poll_fn(|task| {
            self.shared.inbox.poll_count(task);
            if self.runners.are_to_begin() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        });
        // Something else may block their thread.
        timeout(&*self.shared.runtime, RELIEF, begun).await;
    }

    /// Waits until a turn can change something.
    async fn wait_turn(&mut self) {
        let now = self.now();
        let shutdown = &self.shared.shutdown;
        let mut shutdown_changed = shutdown.listen();
        // It may have come before the listener was there.
        if self.phase.is_told_to_end(shutdown) {
            return;
        }
        if self.has_to_look() {
            self.next_look = Some(now + RELIEF);
        }
        let next_change = self.next_change(now).into_iter().chain(self.next_look);
        let mut sleep = next_change.min().map(|at| {
            self.shared
                .runtime
                .sleep(at.saturating_duration_since(now))
                .fuse()
        });
        let turn = poll_fn(|task| {
            // Before the exchanges: one that has just begun sends its statement when it is polled, and what
            // this thread does after that, it does while the server wants a processor.
            let mut changed = self.poll_hint(task);
            changed |= Pin::new(&mut shutdown_changed).poll(task).is_ready();
            if let Some(sleep) = &mut sleep {
                changed |= sleep.poll_unpin(task).is_ready();
            }
            for (place, exchange) in self.exchanges.iter_mut().enumerate() {
                if let Poll::Ready(answer) = exchange.answer.as_mut().poll(task) {
                    drop(self.exchanges.swap_remove(place));
                    return Poll::Ready(Turn::Answered(Box::new(answer)));
                }
            }
            // An end matters if something waits for its slot, or if its outcome can go at once.
            let finished = self.shared.inbox.poll_count(task);
            if finished > 0
                && (self.line_is_short() || self.is_worth_an_exchange(finished, self.now()))
            {
                return Poll::Ready(Turn::SomeFinished);
            }
            // After the inbox, which is how the agent is told of it.
            if changed || self.has_to_look() {
                return Poll::Ready(Turn::Changed);
            }
            Poll::Pending
        })
        .await;
        match turn {
            Turn::Answered(answer) => self.take_answer(*answer),
            // Lets handlers that are ready to run come first, so that their outcomes go together.
            Turn::SomeFinished => yield_once().await,
            Turn::Changed => {}
        }
    }

    /// Takes note of a hint, if there is one.
    fn poll_hint(&mut self, task: &mut TaskContext<'_>) -> bool {
        let Poll::Ready(hint) = self.wake_ups.as_mut().poll_next(task) else {
            return false;
        };
        self.claiming.woken();
        if hint.is_none() {
            self.wake_ups = Box::pin(futures_util::stream::pending());
        }
        true
    }

    fn look_after_runners(&mut self, now: Instant) {
        if self.next_look.is_some_and(|at| now >= at) {
            self.next_look = None;
            self.runners.look();
        }
    }

    /// Whether a runner began since the agent last meant to look.
    fn has_to_look(&self) -> bool {
        self.next_look.is_none() && self.runners.is_watched()
    }

    /// When something changes by the clock alone.
    fn next_change(&self, now: Instant) -> Option<Instant> {
        let pause = self.backoff.pause(now);
        // They wait for company, however long they are due, and for a place.
        let alone = !self.has_company(now) && self.exchanges.len() < self.worthwhile_exchanges;
        let delayed = alone.then(|| self.outgoing.next_delayed()).flatten();
        match self.phase {
            Phase::Claiming if self.exchanges.len() >= self.worthwhile_exchanges => {
                self.next_impatience
            }
            Phase::Claiming => pause.or_else(|| {
                let room = self.running + self.ready.len() < self.settings.concurrency
                    && !self.outgoing.is_stuck();
                let claim = room.then(|| self.claiming.next_change(self.holding(), now));
                let next = claim.flatten().into_iter().chain(delayed);
                next.chain(self.next_impatience).min()
            }),
            Phase::Draining { until } | Phase::Cancelling { until } | Phase::Flushing { until } => {
                let next = pause.or(delayed.into_iter().chain(self.next_impatience).min());
                Some(next.map_or(until, |next| next.min(until)))
            }
        }
    }
}

impl Drop for Agent {
    /// What is in line holds on to what it stands in.
    fn drop(&mut self) {
        self.runners.clear();
    }
}

enum Turn {
    Answered(Box<Answer>),
    SomeFinished,
    /// A hint, a time or a signal came, or runners are to be looked after.
    Changed,
}

struct RunningHeartbeat {
    stop: futures_channel::oneshot::Sender<()>,
    ended: futures_channel::oneshot::Receiver<()>,
}

impl RunningHeartbeat {
    /// Stops it and waits until its loop has ended: then nothing is renewed any more.
    async fn stop(self) {
        drop(self.stop);
        // The sender is dropped, never used: the error is the signal.
        let _ = self.ended.await;
    }
}
