#![doc = include_str!("../README.md")]

#[doc(hidden)]
pub use outbox_core::__private;
pub use outbox_core::{
    About, Attempt, Blocking, BoxError, BoxFuture, BoxStream, Cancel, Claim, ClaimRequest, Claimed,
    Context, CustomPolicy, Data, DataMap, DeadLettered, DeadReason, Definition, Draft, Due, Error,
    ErrorKind, Event, Exchange, FailedAttempt, Failure, FromContext, Handler, Headers, Health,
    Held, Housekeeping, IntoDraft, IntoOutcome, Lease, LeaseToken, LossPhase, MemoryDeadLetter,
    MemoryMessage, MemoryStorage, Message, MessageId, NewMessage, Observer, OrFail, Outcome,
    PreparedWorker, QueueLease, Renewal, Renewed, Report, Requirements, Result, RetryPolicy,
    Runtime, Settled, Settlement, Source, Storage, Verdict, Worker, WorkerHandle, Written,
};
#[cfg(feature = "macros")]
pub use outbox_macros::{Message, job, subscriber};

/// Limits and defaults, and the functions that keep them, which storages and producers share with
/// the core.
pub mod limits {
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
        DeadLetter, DeadLetterQuery, Durability, Enqueued, PgOutbox, PgStorage, PgStorageOptions,
        Revived, SchemaName, WakeUps, schema_sql,
    };
}

/// The SQLite storage, and the producer that writes in the caller's transaction.
#[cfg(feature = "sqlite")]
pub mod sqlite {
    pub use outbox_sqlx::sqlite::{
        SqliteOutbox, SqliteStorage, SqliteStorageOptions, TablePrefix, schema_sql,
    };
    pub use outbox_sqlx::{DeadLetter, DeadLetterQuery, Enqueued, Revived};
}

/// Workers on tokio.
#[cfg(feature = "tokio")]
pub mod tokio {
    pub use outbox_tokio::{TokioRuntime, shared_worker, worker};
}

/// Workers on smol.
#[cfg(feature = "smol")]
pub mod smol {
    pub use outbox_smol::{SmolRuntime, shared_worker, worker};
}

/// Workers on async-std, which is discontinued: new programs take smol or tokio.
#[cfg(feature = "async-std")]
pub mod async_std {
    pub use outbox_async_std::{AsyncStdRuntime, shared_worker, worker};
}

/// What most programs need: `use outbox::prelude::*;`.
///
/// It is the glob that is meant to be imported. `use outbox::*` also brings in the module
/// `outbox::tokio`, and the compiler then does not know which `tokio` is meant:
///
/// ```compile_fail,E0659
/// use outbox::*;
///
/// #[tokio::main]
/// async fn main() {}
/// ```
pub mod prelude {
    pub use outbox_core::{
        Attempt, Blocking, Data, Draft, Failure, Headers, IntoOutcome, Lease, Message, MessageId,
        OrFail, Outcome, RetryPolicy,
    };
    #[cfg(feature = "macros")]
    pub use outbox_macros::{Message, job, subscriber};
    #[cfg(feature = "sqlite")]
    pub use outbox_sqlx::sqlite::{SqliteOutbox, SqliteStorage};
    #[cfg(feature = "postgres")]
    pub use outbox_sqlx::{PgOutbox, PgStorage};
}
