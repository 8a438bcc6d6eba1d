//! The core of outbox: pure message, lease, outcome and retry modules, the storage, runtime and
//! handler seams, and the worker engine. It knows no async runtime and no database.
//!
//! Most users depend on the `outbox` crate, which re-exports this one. Authors of storages and
//! runtimes depend on this one alone and implement [`Storage`] or [`Runtime`].

#[doc(hidden)]
pub mod __private;
mod error;
mod handler;
mod lease;
mod memory;
mod message;
mod outcome;
mod retry;
mod runtime;
mod storage;
mod telemetry;
mod worker;

pub use error::{BoxError, Error, ErrorKind};
pub use futures_util::future::BoxFuture;
pub use futures_util::stream::BoxStream;
pub use handler::{
    Attempt, Blocking, Context, Data, DataMap, Definition, Failure, FromContext, Handler,
    IntoOutcome, Lease, OrFail, Requirements, Result,
};
pub use lease::{
    DEFAULT_LEASE_TTL, Held, LeaseToken, MAX_LEASE_TTL, MIN_LEASE_TTL, check_lease_ttl,
};
pub use memory::{MemoryDeadLetter, MemoryMessage, MemoryStorage};
pub use message::{
    DEFAULT_MAX_ATTEMPTS, DEFAULT_MAX_PAYLOAD_BYTES, Draft, Due, Headers, IntoDraft, JSON,
    MAX_HEADER_BYTES, MAX_NAME_BYTES, Message, MessageId, NewMessage, PRIORITIES, check_name,
};
pub use outcome::{
    DeadReason, MAX_ERROR_BYTES, MAX_LEASE_LOSSES, Outcome, Settlement, Verdict, clip_error,
    error_text,
};
pub use retry::{CustomPolicy, FailedAttempt, MAX_DELAY, RetryPolicy};
pub use runtime::{Runtime, timeout};
pub use storage::{
    Cancel, Claim, ClaimRequest, Claimed, DeadLettered, Exchange, Housekeeping, QueueLease,
    Renewal, Renewed, Settled, Source, Storage,
};
pub use telemetry::{About, Event, Health, LossPhase, Observer, Report, Written};
pub use worker::{PreparedWorker, Worker, WorkerHandle};
