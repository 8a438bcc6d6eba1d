//! The workloads, and what they share: a handler that does nothing.

pub(crate) mod drain;
pub(crate) mod enqueue;
pub(crate) mod few;
pub(crate) mod idle;
pub(crate) mod latency;
pub(crate) mod loaded;
pub(crate) mod memory;
pub(crate) mod processes;
pub(crate) mod queues;
pub(crate) mod relaxed;
pub(crate) mod scheduled;
pub(crate) mod sqlite;
pub(crate) mod states;
pub(crate) mod sustained;
pub(crate) mod tuned;

use outbox::{BoxFuture, Context, Definition, Handler, Outcome, Requirements};

use crate::server::{KIND, QUEUE};

/// A handler that is ready at once. By hand, so that decoding a payload is not measured: the bare
/// statements hand out bytes as well.
pub(crate) struct Noop;

impl Handler for Noop {
    fn definition() -> Definition {
        Definition::new("noop", QUEUE).kinds(vec![KIND.into()])
    }

    fn requires(_: &mut Requirements) {}

    fn call(context: Context) -> BoxFuture<'static, Outcome> {
        std::hint::black_box(&context.message().payload);
        Box::pin(std::future::ready(Outcome::Done))
    }
}
