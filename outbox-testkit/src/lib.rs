//! What tests of outbox share: the rules every storage must keep ([`conformance`]) and a runtime
//! whose time and scheduling the test decides ([`SimRuntime`]).

pub mod conformance;
#[cfg(feature = "postgres")]
pub mod postgres;
mod sim;

pub use sim::SimRuntime;
