//! What a worker tells about itself: events, counters and health.
//! Everything about a message is told after the write about it landed, never before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::Error;
use crate::message::MessageId;
use crate::outcome::DeadReason;
use crate::storage::{Claimed, Housekeeping, Source};

/// The message an event speaks of.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct About<'a> {
    /// Its identity.
    pub id: MessageId,
    /// Its queue.
    pub queue: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// The attempt, counted from 1.
    pub attempt: u16,
}

impl<'a> About<'a> {
    /// Names a message.
    #[must_use]
    pub const fn new(id: MessageId, queue: &'a str, kind: &'a str, attempt: u16) -> Self {
        Self {
            id,
            queue,
            kind,
            attempt,
        }
    }
}

impl<'a> About<'a> {
    pub(crate) fn of(message: &'a Claimed) -> Self {
        Self::new(message.id, &message.queue, &message.kind, message.attempt)
    }
}

/// What was written about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Written {
    /// Its work is done.
    Done,
    /// It was discarded.
    Discarded,
    /// It runs again after this time.
    Retried(Duration),
    /// It runs again after this time, and the attempt was not charged.
    Snoozed(Duration),
    /// It was given back, and the attempt was not charged.
    Released,
    /// It is a dead letter.
    Dead(DeadReason),
}

/// When the loss of a lease was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossPhase {
    /// By the heartbeat or the watchdog, while the message was held.
    Held,
    /// By a settle that changed nothing.
    Settle,
}

/// Something a worker did or met.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A claim was answered.
    Claimed {
        /// From where.
        source: Source,
        /// How many messages it leased.
        count: usize,
        /// How many were asked for.
        limit: usize,
    },
    /// A handler was started.
    Started(About<'a>),
    /// An outcome was written.
    Settled {
        /// The message.
        message: About<'a>,
        /// What was written.
        written: Written,
        /// How long the handler ran; zero if it was not started.
        duration: Duration,
    },
    /// A claim of expired leases made this message a dead letter.
    DeadLettered {
        /// The message; its attempt is not known here and given as 0.
        message: About<'a>,
        /// Why.
        reason: DeadReason,
    },
    /// The lease of a message is lost: whatever this worker decided about it was not written.
    LeaseLost {
        /// The message.
        message: About<'a>,
        /// When that was noticed.
        phase: LossPhase,
    },
    /// A settle whose first outcome was unknown (its reply was lost) found the message gone when
    /// it was asked again: it was written the first time, or the lease is lost.
    Unresolved(About<'a>),
    /// No registered handler understands this kind. It was given back with a delay.
    UnknownKind(About<'a>),
    /// A call to the storage failed. The worker goes on, after a pause.
    StorageFailed {
        /// The error.
        error: &'a Error,
        /// How many calls failed in a row.
        failures: u32,
    },
    /// The storage answers again.
    StorageRecovered {
        /// How many calls had failed in a row.
        failures: u32,
    },
    /// The time to drain was over before these many handlers ended.
    DrainTimedOut {
        /// How many were cancelled.
        running: usize,
    },
    /// The storage has tidied up, or may not: then this is told once.
    Housekept(&'a Housekeeping),
}

/// Told every event; must be quick. A panic in it is caught and logged.
pub type Observer = dyn Fn(&Event<'_>) + Send + Sync;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Counts since the worker started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Report {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl std::ops::AddAssign for Report {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)+
            }
        }

        #[derive(Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)+
        }

        impl Counters {
            pub(crate) fn report(&self) -> Report {
                Report { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

impl Counters {
    /// How many outcomes were written.
    pub(crate) fn settled(&self) -> u64 {
        let report = self.report();
        report.done
            + report.retried
            + report.snoozed
            + report.discarded
            + report.dead
            + report.released
    }
}

counters! {
    /// Messages leased, of both sources.
    claimed,
    /// Messages whose expired lease this worker took over.
    reclaimed,
    /// Handlers started.
    started,
    /// Messages done.
    done,
    /// Attempts that failed and run again.
    retried,
    /// Messages put off without charging an attempt.
    snoozed,
    /// Messages discarded.
    discarded,
    /// Messages that became dead letters.
    dead,
    /// Messages given back, at shutdown.
    released,
    /// Leases lost: the former holder's write was refused, or was not tried.
    lease_lost,
    /// Writes of a former holder that the storage refused: settles and renewals.
    fenced_writes,
    /// Settles whose outcome stayed unknown.
    unresolved,
    /// Messages of unknown kind, given back with a delay.
    unknown_kind,
    /// Handlers that panicked.
    panicked,
    /// Handlers that ran longer than their limit.
    timed_out,
    /// Calls to the storage that claim, settle or exchange.
    exchanges,
    /// Calls to the storage that renew.
    renewals,
    /// Calls to the storage that failed.
    storage_errors,
}

/// How a worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Not yet running.
    Starting,
    /// The last call to the storage succeeded.
    Healthy,
    /// The storage fails; the worker keeps trying.
    Degraded {
        /// How many calls failed in a row.
        failures: u32,
        /// The last error, without its causes.
        error: String,
    },
    /// Shutting down.
    Draining,
    /// Ended.
    Stopped,
}

/// The counters, the health and the observers of one worker.
pub(crate) struct Telemetry {
    pub(crate) counters: Counters,
    // Guards the present health only; never held over an await.
    health: Mutex<Health>,
    observers: Vec<Box<Observer>>,
}

impl Telemetry {
    pub(crate) fn new(observers: Vec<Box<Observer>>) -> Self {
        Self {
            counters: Counters::default(),
            health: Mutex::new(Health::Starting),
            observers,
        }
    }

    pub(crate) fn tell(&self, event: &Event<'_>) {
        for observer in &self.observers {
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| observer(event)));
            if told.is_err() {
                tracing::error!("an observer of worker events panicked");
            }
        }
    }

    pub(crate) fn health(&self) -> Health {
        self.health
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sets the health, except that a worker which drains or has ended does not get well again.
    pub(crate) fn set_health(&self, health: Health) {
        let mut present = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let ending = matches!(*present, Health::Draining | Health::Stopped);
        if !ending || matches!(health, Health::Draining | Health::Stopped) {
            *present = health;
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}
