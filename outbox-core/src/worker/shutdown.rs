//! The signal that ends a worker: run, then drain, then cancel. It only ever goes forward.

use std::sync::atomic::{AtomicU8, Ordering};

use event_listener::{Event, EventListener};

const DRAIN: u8 = 1;
const CANCEL: u8 = 2;

#[derive(Default)]
pub(super) struct Shutdown {
    level: AtomicU8,
    changed: Event,
}

impl Shutdown {
    /// No new claims; handlers go on.
    pub(super) fn drain(&self) {
        self.raise(DRAIN);
    }

    /// Handlers are dropped.
    pub(super) fn cancel(&self) {
        self.raise(CANCEL);
    }

    fn raise(&self, level: u8) {
        if self.level.fetch_max(level, Ordering::AcqRel) < level {
            self.changed.notify(usize::MAX);
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.level.load(Ordering::Acquire) >= DRAIN
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.level.load(Ordering::Acquire) >= CANCEL
    }

    /// Listens for the next change; check the level after calling this.
    pub(super) fn listen(&self) -> EventListener {
        self.changed.listen()
    }

    pub(super) async fn cancelled(&self) {
        loop {
            let changed = self.listen();
            if self.is_cancelled() {
                return;
            }
            changed.await;
        }
    }
}
