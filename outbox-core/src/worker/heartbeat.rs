//! The heartbeat: the registry of held leases, and the loop that renews them on a thread and a
//! connection of its own, so that a blocked handler, a busy reactor or a slow settle cannot
//! starve it. The watchdog is part of it: a lease that could not be renewed in time, counted from
//! when its claim or last renewal was *sent*, is given up locally.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use event_listener::Event as Signal;
use foldhash::HashMap;
use futures_util::future::{Either, FutureExt, select};

use super::verdict::panic_message;
use crate::error::{Error, ErrorKind};
use crate::handler::Lease;
use crate::lease::Held;
use crate::runtime::{Runtime, timeout};
use crate::storage::{Claimed, Renewal, Renewed, Storage};
use crate::telemetry::{About, Event, LossPhase, Telemetry, add};

/// Everything this worker holds a lease on: running, waiting to start, and waiting to be settled.
#[derive(Default)]
pub(super) struct Leases {
    // Guards the entries; never held over an await.
    entries: Mutex<Entries>,
    /// A lease was added that may end before the heartbeat would look again.
    short: Signal,
}

#[derive(Default)]
struct Entries {
    by_lease: HashMap<Held, Entry>,
    /// None of them ends before, unless it is being settled.
    first_end: Option<Instant>,
}

/// Leases that were taken out of the registry because they are lost.
pub(super) type Lost = Vec<(Held, Entry)>;

pub(super) struct Entry {
    lease: Lease,
    lease_ttl: Duration,
    queue: Arc<str>,
    kind: Arc<str>,
    attempt: u16,
    /// When the claim or the last successful renewal was sent.
    sent: Instant,
    /// Its outcome is known: what a renewal says about it does not matter any more.
    settling: bool,
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<Held, Entry>) -> T) -> T {
        work(&mut self.lock().by_lease)
    }

    fn note_end(&self, end: Option<Instant>) {
        let mut entries = self.lock();
        entries.first_end = entries.first_end.into_iter().chain(end).min();
    }

    /// Registers what a claim sent at `sent` and answered at `now` has leased, and returns a lease
    /// for each; and the former leases of these messages, which this worker held and lost to
    /// itself.
    pub(super) fn add(
        &self,
        messages: &[Claimed],
        lease_ttl: impl Fn(&str) -> Duration,
        sent: Instant,
        now: Instant,
    ) -> (Vec<Lease>, Lost) {
        let took = now.saturating_duration_since(sent);
        let mut some_are_short = false;
        let mut shortest = None;
        let added = self.with(|entries| {
            // Only a delivery after the first can have a former lease.
            let again = messages.iter().filter(|message| message.deliveries > 1);
            let again: HashMap<_, _> = again.map(|one| (one.id, one.token)).collect();
            let former = |held: &Held| again.get(&held.id).is_some_and(|new| *new != held.token);
            let lost = if again.is_empty() {
                Vec::new()
            } else {
                // The settle of a former run will tell of its loss itself.
                entries
                    .extract_if(|held, _| former(held))
                    .filter(|(_, entry)| !entry.settling)
                    .collect()
            };
            let leases = messages
                .iter()
                .map(|message| {
                    let lease_ttl = lease_ttl(&message.queue);
                    // The heartbeat looks once in a third of every lease: what lasts longer can
                    // wait for that.
                    some_are_short |= took > lease_ttl / 3 * 2;
                    shortest = Some(shortest.map_or(lease_ttl, |least| lease_ttl.min(least)));
                    let lease = Lease::new(message.held(), message.deliveries);
                    let entry = Entry {
                        lease: lease.clone(),
                        lease_ttl,
                        queue: Arc::clone(&message.queue),
                        kind: Arc::clone(&message.kind),
                        attempt: message.attempt,
                        sent,
                        settling: false,
                    };
                    entries.insert(message.held(), entry);
                    lease
                })
                .collect();
            (leases, lost)
        });
        let first = shortest.map(|lease_ttl| sent + lease_ttl);
        self.note_end(first);
        if some_are_short {
            self.short.notify(usize::MAX);
        }
        added
    }

    /// The outcomes of these are known. Returns for each whether its lease was held until now.
    pub(super) fn begin_settling(&self, all: impl IntoIterator<Item = Held>) -> Vec<bool> {
        self.with(|entries| {
            let begin = |held| {
                let entry = entries.get_mut(&held);
                entry.map(|entry| entry.settling = true).is_some()
            };
            all.into_iter().map(begin).collect()
        })
    }

    /// These leases have ended: settled, given up, or lost.
    pub(super) fn end(&self, all: impl IntoIterator<Item = Held>) {
        self.with(|entries| {
            for held in all {
                entries.remove(&held);
            }
        });
    }

    /// Ends all leases that are not being settled, as the worker gives up handlers that do not
    /// stop. Returns how many.
    pub(super) fn abandon_running(&self) -> usize {
        self.with(|entries| {
            let before = entries.len();
            entries.retain(|_, entry| {
                if !entry.settling {
                    entry.lease.lose();
                }
                entry.settling
            });
            before - entries.len()
        })
    }

    /// What to renew now: everything held for a sixth of its lease or longer. With a tick of a
    /// third, a lease is half over at most when it is first renewed.
    fn due(&self, now: Instant) -> Vec<Renewal> {
        self.with(|entries| {
            entries
                .iter()
                .filter(|(_, entry)| {
                    now.saturating_duration_since(entry.sent) >= entry.lease_ttl / 6
                })
                .map(|(held, entry)| Renewal::new(*held, entry.lease_ttl))
                .collect()
        })
    }

    fn apply(&self, asked: &[Renewal], answer: &Renewed, sent: Instant) -> Lost {
        self.with(|entries| {
            let tokens: HashMap<_, _> = asked
                .iter()
                .map(|renewal| (renewal.held.id, renewal.held))
                .collect();
            for held in answer.renewed.iter().filter_map(|id| tokens.get(id)) {
                if let Some(entry) = entries.get_mut(held) {
                    entry.sent = sent;
                }
            }
            answer
                .lost
                .iter()
                .filter_map(|id| tokens.get(id))
                .filter_map(|held| {
                    let held_still = entries.get(held).is_some_and(|entry| !entry.settling);
                    held_still.then(|| entries.remove_entry(held))?
                })
                .collect()
        })
    }

    /// Takes out the leases whose time is over by this worker's own clock.
    fn lapsed(&self, now: Instant) -> Lost {
        self.with(|entries| entries.extract_if(|_, entry| entry.is_over(now)).collect())
    }

    /// Takes out this lease if its time is over by this worker's own clock.
    pub(super) fn end_if_over(&self, held: Held, now: Instant) -> Option<(Held, Entry)> {
        self.with(|entries| {
            let over = entries.get(&held).is_some_and(|entry| entry.is_over(now));
            over.then(|| entries.remove_entry(&held))?
        })
    }

    /// Whether the time of some lease may be over by this worker's own clock.
    pub(super) fn some_may_be_over(&self, now: Instant) -> bool {
        self.lock().first_end.is_some_and(|first| first <= now)
    }

    fn first_end(&self) -> Option<Instant> {
        let mut entries = self.lock();
        let held = entries.by_lease.values().filter(|entry| !entry.settling);
        entries.first_end = held.map(Entry::ends).min();
        entries.first_end
    }
}

impl Entry {
    fn ends(&self) -> Instant {
        self.sent + self.lease_ttl
    }

    fn is_over(&self, now: Instant) -> bool {
        !self.settling && self.ends() <= now
    }
}

/// The loop that renews. It ends when `stop` completes.
pub(super) struct Heartbeat {
    pub(super) leases: Arc<Leases>,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) telemetry: Arc<Telemetry>,
    /// A third of the shortest lease.
    pub(super) tick: Duration,
}

impl Heartbeat {
    pub(super) async fn run(self, stop: impl Future<Output = ()>) {
        let beat = pin!(self.beat());
        select(beat, pin!(stop)).await;
    }

    async fn beat(&self) {
        let mut next = self.runtime.now() + self.tick;
        loop {
            self.wait_for_an_end(Some(next)).await;
            let now = self.runtime.now();
            give_up(&self.telemetry, self.leases.lapsed(now));
            if now >= next {
                let renewed = self.renew(now).await;
                // After a failure sooner than usual: the leases go on running down.
                let pause = if renewed { self.tick } else { self.tick / 4 };
                next = self.runtime.now() + pause;
            }
        }
    }

    async fn renew(&self, sent: Instant) -> bool {
        let asked = self.leases.due(sent);
        if asked.is_empty() {
            return true;
        }
        add(&self.telemetry.counters.renewals, 1);
        let call = AssertUnwindSafe(self.storage.renew(&asked)).catch_unwind();
        let call = timeout(&*self.runtime, self.tick, call);
        let answer = match self.watch_during(call).await {
            Some(Ok(answer)) => answer,
            Some(Err(panic)) => Err(storage_panic("renew", &panic_message(panic))),
            None => Err(too_slow("renew", self.tick)),
        };
        match answer {
            Ok(answer) => {
                let lost = self.leases.apply(&asked, &answer, sent);
                add(&self.telemetry.counters.fenced_writes, lost.len());
                give_up(&self.telemetry, lost);
                true
            }
            Err(error) => {
                add(&self.telemetry.counters.storage_errors, 1);
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    held = asked.len(),
                    "renewing leases failed"
                );
                false
            }
        }
    }

    /// Waits for a renewal, and meanwhile gives up what ends before it answers.
    async fn watch_during<T>(&self, renewal: impl Future<Output = T>) -> T {
        let mut renewal = pin!(renewal);
        loop {
            let end = pin!(self.wait_for_an_end(None));
            match select(renewal, end).await {
                Either::Left((answer, _)) => return answer,
                Either::Right(((), unanswered)) => renewal = unanswered,
            }
            give_up(&self.telemetry, self.leases.lapsed(self.runtime.now()));
        }
    }

    /// Waits until a lease may have ended, at most until `latest`.
    async fn wait_for_an_end(&self, latest: Option<Instant>) {
        let short = self.leases.short.listen();
        let Some(wake) = self.leases.first_end().into_iter().chain(latest).min() else {
            return short.await;
        };
        let left = wake.saturating_duration_since(self.runtime.now());
        select(self.runtime.sleep(left), short).await;
    }
}

/// Tells the holders of lost leases, and the observers.
pub(super) fn give_up(telemetry: &Telemetry, lost: impl IntoIterator<Item = (Held, Entry)>) {
    for (held, entry) in lost {
        entry.lease.lose();
        let about = About::new(held.id, &entry.queue, &entry.kind, entry.attempt);
        lease_lost(telemetry, about, LossPhase::Held);
    }
}

/// Counts and tells the loss of a lease, once.
pub(super) fn lease_lost(telemetry: &Telemetry, message: About<'_>, phase: LossPhase) {
    add(&telemetry.counters.lease_lost, 1);
    tracing::warn!(id = %message.id, queue = message.queue, kind = message.kind, attempt = message.attempt, ?phase, "lease lost");
    telemetry.tell(&Event::LeaseLost { message, phase });
}

pub(super) fn storage_panic(operation: &'static str, message: &str) -> Error {
    Error::new(
        ErrorKind::Storage,
        operation,
        format!("the storage panicked: {message}"),
    )
}

pub(super) fn too_slow(operation: &'static str, limit: Duration) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        operation,
        format!("no answer within {limit:?}"),
    )
}
