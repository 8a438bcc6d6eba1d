//! The registered handlers: which function runs for a queue and a kind.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::error::{Error, ErrorKind};
use crate::handler::{Context, DataMap, Definition, Handler, Requirements};
use crate::lease::check_lease_ttl;
use crate::message::check_name;
use crate::outcome::Outcome;
use crate::storage::QueueLease;

/// A first poll that took so long held up others.
const SLOW_POLL: Duration = Duration::from_millis(1);
/// So many runs after it have a task of their own.
const AFTER_SLOW_POLL: u32 = 100;

/// One registered handler.
pub(super) struct Registration {
    pub(super) definition: Definition,
    pub(super) call: fn(Context) -> BoxFuture<'static, Outcome>,
    requires: fn(&mut Requirements),
    /// How many of its next runs have a task of their own.
    own_tasks: AtomicU32,
}

#[derive(Default)]
pub(super) struct Registry {
    all: Vec<Arc<Registration>>,
    // By queue, then kind.
    by_kind: HashMap<&'static str, HashMap<String, Arc<Registration>>>,
    duplicates: Vec<String>,
}

impl Registry {
    pub(super) fn add<H: Handler>(&mut self) {
        let registration = Arc::new(Registration {
            definition: H::definition(),
            call: H::call,
            requires: H::requires,
            own_tasks: AtomicU32::new(0),
        });
        let definition = &registration.definition;
        let kinds = self.by_kind.entry(definition.queue).or_default();
        for kind in &definition.kinds {
            let earlier = kinds.insert(kind.to_string(), Arc::clone(&registration));
            if let Some(earlier) = earlier {
                self.duplicates.push(format!(
                    "kind {kind:?} of queue {:?} is handled by `{}` ({}) and by `{}` ({})",
                    definition.queue,
                    earlier.definition.name,
                    earlier.definition.location,
                    definition.name,
                    definition.location,
                ));
            }
        }
        self.all.push(registration);
    }

    pub(super) fn find(&self, queue: &str, kind: &str) -> Option<&Arc<Registration>> {
        self.by_kind.get(queue)?.get(kind)
    }

    pub(super) fn queue_names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.by_kind.keys().copied().collect();
        names.sort_unstable();
        names
    }

    /// The queues with their leases. Handlers of one queue share its claim, so the longest lease
    /// and the most attempts that any of them asks for apply.
    pub(super) fn leases(&self) -> Vec<QueueLease> {
        let mut queues: BTreeMap<&str, QueueLease> = BTreeMap::new();
        for registration in &self.all {
            let definition = &registration.definition;
            let queue = queues
                .entry(definition.queue)
                .or_insert_with(|| QueueLease::new(definition.queue, Duration::ZERO));
            queue.lease_ttl = queue.lease_ttl.max(definition.lease_ttl);
            queue.max_attempts = queue.max_attempts.max(definition.max_attempts);
        }
        queues.into_values().collect()
    }

    pub(super) fn check(&self, data: &DataMap) -> Result<(), Error> {
        if self.all.is_empty() {
            return Err(
                Error::new(ErrorKind::InvalidConfig, "run", "no handler is registered")
                    .with_advice("call .register::<handler>() before the worker runs"),
            );
        }
        if !self.duplicates.is_empty() {
            return Err(Error::new(
                ErrorKind::DuplicateHandler,
                "register",
                self.duplicates.join("; "),
            ));
        }
        for registration in &self.all {
            registration.check()?;
        }
        self.check_data(data)
    }

    fn check_data(&self, data: &DataMap) -> Result<(), Error> {
        let mut missing = Vec::new();
        for registration in &self.all {
            let mut requirements = Requirements::default();
            (registration.requires)(&mut requirements);
            for (of, name) in requirements.iter() {
                if !data.contains(of) {
                    missing.push(format!(
                        "`{}` ({}) asks for Data<{name}>",
                        registration.definition.name, registration.definition.location
                    ));
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::MissingData,
            "register",
            format!("{}, and the worker has none", missing.join("; ")),
        ))
    }
}

impl Registration {
    /// Notes how long the first poll of a run took.
    pub(super) fn note_poll(&self, took: Duration) {
        if took >= SLOW_POLL {
            self.own_tasks.store(AFTER_SLOW_POLL, Ordering::Relaxed);
        }
    }

    /// Whether the next run has a task of its own, because one before it was slow to be polled: it
    /// computes or blocks, and would hold up what is behind it.
    pub(super) fn takes_own_task(&self) -> bool {
        let fewer = |left: u32| left.checked_sub(1);
        let counted = self
            .own_tasks
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        counted.is_ok()
    }

    fn check(&self) -> Result<(), Error> {
        let definition = &self.definition;
        let refuse = |message: &str| {
            Err(Error::new(
                ErrorKind::InvalidConfig,
                "register",
                format!("`{}` ({}): {message}", definition.name, definition.location),
            ))
        };
        if let Err(error) = check_name("queue", definition.queue) {
            return refuse(error.message());
        }
        if definition.kinds.is_empty() {
            return refuse("it handles no kind");
        }
        for kind in &definition.kinds {
            if let Err(error) = check_name("kind", kind) {
                return refuse(error.message());
            }
        }
        if let Err(error) = check_lease_ttl(definition.lease_ttl) {
            return refuse(error.message());
        }
        if let Some(max_attempts) = definition.max_attempts
            && !(1..=i16::MAX.unsigned_abs()).contains(&max_attempts)
        {
            let range = "and must be from 1 to 32767";
            return refuse(&format!("max_attempts is {max_attempts}, {range}"));
        }
        if definition.timeout == Some(Duration::ZERO) {
            return refuse("timeout is zero");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::Requirements;

    struct Nothing;

    impl Handler for Nothing {
        fn definition() -> Definition {
            Definition::new("nothing", "q").kinds(vec!["k".into()])
        }
        fn requires(_: &mut Requirements) {}
        fn call(_: Context) -> BoxFuture<'static, Outcome> {
            Box::pin(async { Outcome::Done })
        }
    }

    #[test]
    fn runs_after_a_slow_poll_have_tasks_of_their_own_for_a_while() {
        let mut registry = Registry::default();
        registry.add::<Nothing>();
        let registration = registry.find("q", "k").expect("it is registered");
        registration.note_poll(SLOW_POLL - Duration::from_nanos(1));
        assert!(!registration.takes_own_task());
        registration.note_poll(SLOW_POLL);
        for _ in 0..AFTER_SLOW_POLL {
            assert!(registration.takes_own_task());
        }
        assert!(!registration.takes_own_task());
    }
}
