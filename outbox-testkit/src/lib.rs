//! For users, handlers tested without a database: [`TestApp`], explained in [`app`].
//!
//! For storages, runtimes and outbox itself: the rules every storage must keep ([`conformance`]),
//! random steps against a reference model (`model`, behind the feature of that name), the rules
//! every runtime must keep ([`runtime`]), a runtime whose time and scheduling the test decides
//! ([`SimRuntime`]), and calls that go wrong ([`FaultStorage`], [`drop_at_every_await`]).

pub mod app;
pub mod conformance;
mod drops;
mod fault;
#[cfg(feature = "model")]
pub mod model;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod runtime;
mod sim;
#[cfg(feature = "sqlite")]
pub mod sqlite;

#[doc(inline)]
pub use app::{TestApp, TestMessage, TestOutbox};
pub use drops::{drop_after, drop_at_every_await};
pub use fault::{Fault, FaultStorage, Odds, Operation};
pub use sim::{SimProcess, SimRuntime};

/// What the macros of this crate use.
#[doc(hidden)]
pub mod __private {
    pub use outbox_core::Message;
}
