//! The rules every storage must keep, each written once as a named property with a stable id, and
//! the [`conformance_suite!`](crate::conformance_suite) macro that makes a test of each.
//!
//! A storage proves itself by implementing [`Subject`] for its test fixture. The properties speak
//! to the storage through `outbox_core::Storage` only; the hooks of the subject move time and look
//! at what is stored. No property sleeps, and none depends on the time a call takes as long as it
//! stays under a minute.
//!
//! What a storage may do without is a [`Capability`]. A subject that declines one is not asked for
//! it, and [`Report`] names every property that was declined.

pub mod call;
pub mod cancel;
mod capability;
pub mod claim;
pub mod dead;
pub mod dropped;
pub mod expiry;
pub mod fence;
pub mod insert;
mod memory;
mod properties;
pub mod renew;
mod report;
pub mod settle;
mod steps;
pub mod wake;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{BoxFuture, Cancel, Draft, Headers, MessageId, Runtime, Storage};

pub use capability::Capability;
pub use memory::MemorySubject;
pub use properties::PROPERTIES;
pub use report::{Checked, Finding, Report};

/// A storage under test: empty when a property gets it, used by no other at the same time, and
/// with hooks to move its time and look inside.
///
/// The hooks panic when they cannot do their work; that fails the test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The storage. Every call may return the same one. If calls on that wait for each other, return
    /// several in turn, each with connections of its own: else no race can be lost.
    fn storage(&self) -> Arc<dyn Storage>;

    /// The runtime the property runs on, for [`Storage::wake_ups`] and for limits on waiting.
    fn runtime(&self) -> Arc<dyn Runtime>;

    /// Ends every lease now, as if its time had passed: moves the end of all leases back by the
    /// same time, so that they keep their order and the latest ends now or before.
    async fn expire_leases(&self);

    /// Makes every message due now that waits for a later time, and changes nothing else.
    async fn make_due(&self);

    /// What is stored of a live message; `None` if there is no such message.
    async fn state(&self, id: MessageId) -> Option<MessageState>;

    /// All dead letters, in any order.
    async fn dead_letters(&self) -> Vec<DeadLetterState>;

    /// What the storage does not offer. The properties that need it are not asked of it, and are
    /// named wherever the suite runs.
    fn declines(&self) -> &[Capability] {
        &[]
    }

    /// Cancels a message by id, as an operator or the producer would. Not called where
    /// [`Capability::Cancel`] is declined.
    async fn cancel(&self, id: MessageId) -> Cancel {
        panic!(
            "message {id} is to be cancelled: implement `cancel`, or decline Capability::Cancel"
        );
    }

    /// Enqueues in a transaction of the caller's, through the handle that producers use, and
    /// commits it or rolls it back. Not called where [`Capability::Transactions`] is declined.
    async fn enqueue_in_transaction(&self, messages: Vec<Draft>, commit: bool) {
        drop((messages, commit));
        panic!("implement `enqueue_in_transaction`, or decline Capability::Transactions");
    }
}

/// What is stored of a live message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageState {
    /// Attempts charged so far, the running one included.
    pub attempts: u16,
    /// How often its lease was lost since the last settle.
    pub lease_losses: u16,
    /// How often it was claimed.
    pub deliveries: u32,
    /// The time left of its lease by the storage's clock: zero if it has expired, `None` if
    /// nobody holds the message.
    pub lease_left: Option<Duration>,
    /// The time until it is due by the storage's clock: zero if it is.
    pub due_in: Duration,
    /// The error of its last failed attempt.
    pub last_error: Option<String>,
}

impl MessageState {
    /// Whether somebody holds it, be it under an expired lease.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.lease_left.is_some()
    }
}

/// What is stored of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterState {
    /// The id of the message it was.
    pub id: MessageId,
    /// Its queue.
    pub queue: String,
    /// Its kind.
    pub kind: String,
    /// Its headers.
    pub headers: Headers,
    /// Its key, which is free again.
    pub key: Option<String>,
    /// Its group.
    pub group: Option<String>,
    /// The producer's own reference.
    pub tag: Option<String>,
    /// How many attempts it had.
    pub attempts: u16,
    /// The stored name of the reason, as [`DeadReason::as_str`](outbox_core::DeadReason::as_str)
    /// gives it.
    pub reason: String,
    /// Its content, byte for byte.
    pub payload: Vec<u8>,
    /// Its last error, if there was one.
    pub error: Option<String>,
}

/// One rule, as data: for reports, and for runs the suite's macro does not offer.
#[derive(Clone, Copy)]
pub struct Property {
    /// Its stable id, such as `FENCE-01`. Never used again for another rule.
    pub id: &'static str,
    /// The rule as a sentence: the name of its function and of the test.
    pub name: &'static str,
    /// What a storage must offer for it to be asked.
    pub needs: Option<Capability>,
    /// Checks it, whatever the subject declines; panics if it is broken.
    pub check: for<'a> fn(&'a dyn Subject) -> BoxFuture<'a, ()>,
}

impl Property {
    /// The property of this id.
    #[must_use]
    pub fn find(id: &str) -> Option<&'static Self> {
        PROPERTIES.iter().find(|property| property.id == id)
    }

    /// What it needs and the subject declines; `None` if it is asked of this subject.
    #[must_use]
    pub fn declined_by(&self, subject: &dyn Subject) -> Option<Capability> {
        let declined = |needed: &Capability| subject.declines().contains(needed);
        self.needs.filter(declined)
    }

    /// Checks it, unless the subject declines what it needs, which is then printed; panics if it
    /// is broken.
    #[expect(
        clippy::print_stdout,
        reason = "what is declined is named, and not skipped in silence"
    )]
    pub async fn check_unless_declined(&self, subject: &dyn Subject) -> Checked {
        if let Some(needed) = self.declined_by(subject) {
            println!("{self:?} is declined: {needed}");
            return Checked::Declined(needed);
        }
        (self.check)(subject).await;
        Checked::Kept
    }
}

impl std::fmt::Debug for Property {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.id, self.name)
    }
}

/// Makes one `#[test]` of each property of the suite. The test of a property that the subject
/// declines passes, and prints so.
///
/// The first argument is an expression of a type that implements [`Subject`], evaluated anew for
/// each test inside an async block, so that it may await. The second is a function that runs a
/// future to its end, on the runtime that [`Subject::runtime`] returns.
///
/// ```
/// # struct Fixture;
/// # async fn new_subject() -> Fixture { Fixture }
/// fn block_on<F: Future>(future: F) -> F::Output {
///     outbox_testkit::SimRuntime::new(1).block_on(future)
/// }
///
/// outbox_testkit::conformance_suite!(new_subject().await, block_on = block_on);
/// ```
#[macro_export]
macro_rules! conformance_suite {
    ($subject:expr, block_on = $block_on:path) => {
        $crate::__each_property! { __conformance_tests [$subject] [$block_on] }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ([$subject:expr] [$block_on:path] $($id:literal $group:ident :: $name:ident $(needs $capability:ident)?;)*) => {
        $(
            #[test]
            fn $name() {
                $block_on(async {
                    let subject = $subject;
                    let property = $crate::conformance::Property::find($id);
                    let property = property.expect("the list has it");
                    property.check_unless_declined(&subject).await;
                });
            }
        )*
    };
}
