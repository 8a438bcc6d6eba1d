//! What the suite needs of a database: a place of its own for each test, the caller's side of an
//! enqueue, and a look at what is stored.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox::{Draft, Storage};

/// How the caller's transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It commits.
    Commit,
    /// It rolls back.
    Rollback,
}

/// Keeps the database out of reach until it is dropped.
pub struct Outage(Option<Box<dyn Send>>);

impl Outage {
    /// One that its end ends.
    pub(crate) fn lasting(end: impl Send + 'static) -> Self {
        Self(Some(Box::new(end)))
    }

    /// One that was over at once.
    pub(crate) const fn over() -> Self {
        Self(None)
    }

    pub(crate) const fn lasts(&self) -> bool {
        self.0.is_some()
    }
}

/// A database of one test, with an empty outbox. It connects on the runtime of whoever calls.
///
/// The methods panic when they cannot do their work; that fails the test.
#[async_trait]
pub trait Backend: Send + Sync + Sized + 'static {
    /// Makes one.
    async fn new() -> Self;

    /// A storage with connections of its own.
    async fn storage(&self) -> Arc<dyn Storage>;

    /// Enqueues in one transaction of the caller's, which ends like this.
    async fn enqueue(&self, drafts: Vec<Draft>, ending: Ending);

    /// How many messages are live.
    async fn messages(&self) -> i64;

    /// How many messages somebody holds.
    async fn leased(&self) -> i64;

    /// The reasons of the dead letters, by their stored names.
    async fn dead_letters(&self) -> Vec<String>;

    /// Whether a worker listens for wake-ups. Where nobody can see that, it is enough that no
    /// wake-up is lost before.
    async fn has_listener(&self) -> bool;

    /// Whether a lease is still held although its first `lease_ttl` is over.
    async fn is_renewed(&self, lease_ttl: Duration) -> bool;

    /// Takes the database away from its workers: ends their sessions, where they have some, or
    /// keeps them from writing until the answer is dropped.
    async fn outage(&self) -> Outage;
}
