//! What the macros' expansions name. Not for use by hand: it changes without notice.

pub use crate::handler::{Context, Definition, FromContext, Handler, IntoOutcome, Requirements};
pub use crate::message::{DEFAULT_MAX_ATTEMPTS, Draft, Message};
pub use crate::outcome::Outcome;
pub use futures_util::future::BoxFuture;
