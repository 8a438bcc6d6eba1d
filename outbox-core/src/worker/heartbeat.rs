//! The heartbeat: the registry of held leases, and the loop that renews them on a thread and a
//! connection of its own, so that a blocked handler, a busy reactor or a slow settle cannot
//! starve it. The watchdog is part of it: a lease that could not be renewed in time, counted from
//! when its claim or last renewal was *sent*, is given up locally.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{FutureExt, select};

use super::execute::panic_message;
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
    entries: Mutex<HashMap<Held, Entry>>,
}

struct Entry {
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
    fn with<T>(&self, work: impl FnOnce(&mut HashMap<Held, Entry>) -> T) -> T {
        work(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Registers what a claim sent at `sent` has leased, and returns a lease for each.
    pub(super) fn add(
        &self,
        messages: &[Claimed],
        lease_ttl: impl Fn(&str) -> Duration,
        sent: Instant,
    ) -> Vec<Lease> {
        self.with(|entries| {
            messages
                .iter()
                .map(|message| {
                    let lease = Lease::new(message.held(), message.deliveries);
                    let entry = Entry {
                        lease: lease.clone(),
                        lease_ttl: lease_ttl(&message.queue),
                        queue: Arc::clone(&message.queue),
                        kind: Arc::clone(&message.kind),
                        attempt: message.attempt,
                        sent,
                        settling: false,
                    };
                    entries.insert(message.held(), entry);
                    lease
                })
                .collect()
        })
    }

    /// The outcome of this one is known. Returns false if its lease was lost before.
    pub(super) fn begin_settling(&self, held: Held) -> bool {
        self.with(|entries| {
            entries
                .get_mut(&held)
                .map(|entry| entry.settling = true)
                .is_some()
        })
    }

    /// The lease has ended: settled, given up, or lost.
    pub(super) fn end(&self, held: Held) {
        self.with(|entries| entries.remove(&held));
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
                .map(|(held, entry)| Renewal {
                    held: *held,
                    lease_ttl: entry.lease_ttl,
                })
                .collect()
        })
    }

    fn apply(&self, asked: &[Renewal], answer: &Renewed, sent: Instant) -> Vec<(Held, Entry)> {
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
                .filter(|held| entries.get(held).is_some_and(|entry| !entry.settling))
                .copied()
                .collect::<Vec<_>>()
                .into_iter()
                .filter_map(|held| entries.remove(&held).map(|entry| (held, entry)))
                .collect()
        })
    }

    /// Takes out the leases whose time is over by this worker's own clock.
    fn lapsed(&self, now: Instant) -> Vec<(Held, Entry)> {
        self.with(|entries| {
            let lapsed: Vec<Held> = entries
                .iter()
                .filter(|(_, entry)| !entry.settling && entry.ends() <= now)
                .map(|(held, _)| *held)
                .collect();
            lapsed
                .into_iter()
                .filter_map(|held| entries.remove(&held).map(|entry| (held, entry)))
                .collect()
        })
    }

    fn first_end(&self) -> Option<Instant> {
        self.with(|entries| {
            entries
                .values()
                .filter(|entry| !entry.settling)
                .map(Entry::ends)
                .min()
        })
    }
}

impl Entry {
    fn ends(&self) -> Instant {
        self.sent + self.lease_ttl
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
            let wake = self.leases.first_end().map_or(next, |end| end.min(next));
            let now = self.runtime.now();
            self.runtime
                .sleep(wake.saturating_duration_since(now))
                .await;
            let now = self.runtime.now();
            self.give_up(self.leases.lapsed(now));
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
        let answer = match timeout(&*self.runtime, self.tick, call).await {
            Some(Ok(answer)) => answer,
            Some(Err(panic)) => Err(storage_panic("renew", &*panic)),
            None => Err(too_slow("renew", self.tick)),
        };
        match answer {
            Ok(answer) => {
                let lost = self.leases.apply(&asked, &answer, sent);
                add(&self.telemetry.counters.fenced_writes, lost.len());
                self.give_up(lost);
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

    fn give_up(&self, lost: Vec<(Held, Entry)>) {
        for (held, entry) in lost {
            entry.lease.lose();
            let about = About::new(held.id, &entry.queue, &entry.kind, entry.attempt);
            lease_lost(&self.telemetry, about, LossPhase::Held);
        }
    }
}

/// Counts and tells the loss of a lease, once.
pub(super) fn lease_lost(telemetry: &Telemetry, message: About<'_>, phase: LossPhase) {
    add(&telemetry.counters.lease_lost, 1);
    tracing::warn!(id = %message.id, queue = message.queue, kind = message.kind, attempt = message.attempt, ?phase, "lease lost");
    telemetry.tell(&Event::LeaseLost { message, phase });
}

pub(super) fn storage_panic(operation: &'static str, panic: &(dyn std::any::Any + Send)) -> Error {
    Error::new(
        ErrorKind::Storage,
        operation,
        format!("the storage panicked: {}", panic_message(panic)),
    )
}

pub(super) fn too_slow(operation: &'static str, limit: Duration) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        operation,
        format!("no answer within {limit:?}"),
    )
}
