#![doc = include_str!("../README.md")]

#[doc(hidden)]
pub use outbox_core::__private;
pub use outbox_core::{
    About, Attempt, Blocking, BoxError, BoxFuture, BoxStream, Cancel, Claim, ClaimRequest, Claimed,
    Context, CustomPolicy, Data, DataMap, DeadLettered, DeadReason, Definition, Draft, Due, Error,
    ErrorKind, Event, Exchange, FailedAttempt, Failure, FromContext, Handler, Headers, Health,
    Held, IntoDraft, IntoOutcome, Lease, LeaseToken, LossPhase, MemoryDeadLetter, MemoryMessage,
    MemoryStorage, Message, MessageId, NewMessage, Observer, OrFail, Outcome, PreparedWorker,
    QueueLease, Renewal, Renewed, Report, Requirements, Result, RetryPolicy, Runtime, Settlement,
    Source, Storage, Verdict, Worker, WorkerHandle, Written, span,
};
#[cfg(feature = "macros")]
pub use outbox_macros::{Message, job, subscriber};

/// Limits and defaults, and the checks and helpers a storage or producer shares with the core.
pub mod core {
    pub use outbox_core::{
        DEFAULT_LEASE_TTL, DEFAULT_MAX_ATTEMPTS, DEFAULT_MAX_PAYLOAD_BYTES, JSON, MAX_DELAY,
        MAX_ERROR_BYTES, MAX_HEADER_BYTES, MAX_LEASE_LOSSES, MAX_LEASE_TTL, MAX_NAME_BYTES,
        MIN_LEASE_TTL, PRIORITIES, check_lease_ttl, check_name, clip_error, error_text, timeout,
    };
}

/// The Postgres storage, and the producer that writes in the caller's transaction.
#[cfg(feature = "postgres")]
pub mod postgres {
    pub use outbox_sqlx::{
        DeadLetter, DeadLetterQuery, Enqueued, PgOutbox, PgStorage, PgStorageOptions, Revived,
        SchemaName, WakeUps, schema_sql,
    };
}

/// Workers on tokio.
#[cfg(feature = "tokio")]
pub mod tokio {
    pub use outbox_tokio::{TokioRuntime, shared_worker, worker};
}

/// What most programs need: `use outbox::prelude::*;`.
pub mod prelude {
    pub use outbox_core::{
        Attempt, Blocking, Data, Draft, Failure, Headers, IntoOutcome, Lease, Message, MessageId,
        OrFail, Outcome, RetryPolicy,
    };
    #[cfg(feature = "macros")]
    pub use outbox_macros::{Message, job, subscriber};
    #[cfg(feature = "postgres")]
    pub use outbox_sqlx::{PgOutbox, PgStorage};
}
