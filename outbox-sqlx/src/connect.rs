//! Our own connections: reading their URL, their settings, and opening one. The caller's
//! connections are never touched.

use std::any::Any;
use std::panic::{AssertUnwindSafe, resume_unwind};

use futures_util::FutureExt;
use outbox_core::{Error, ErrorKind};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

use crate::error::storage_error;
use crate::storage::Durability;

/// Settings that hold for every connection of ours, whatever the role or the database says.
///
/// - Isolation: the statements rely on re-checking a row after a wait, which is READ COMMITTED.
/// - Limits: a statement of ours takes milliseconds; one that takes longer is stuck, and fails as
///   a transient error.
/// - Locks: only settles, enqueues by the storage and what an operator asks ever wait for one, and
///   claims wait behind those. A settle then goes on without what is locked; the others fail as a
///   transient error. Claims and renewals skip what is locked, and migrations set their own limit.
/// - Planner: every statement has its index. An empty table that was just vacuumed looks free to
///   scan, and a plan made then would scan the next backlog until the statistics catch up.
/// - Plans: a statement is planned once for a connection. Left to itself the server plans a claim anew
///   each time, because it believes that knowing the limit saves more than planning costs.
/// - Search path: every name of ours is qualified, and operators come from nowhere else.
const SETTINGS: [(&str, &str); 9] = [
    ("default_transaction_isolation", "read committed"),
    ("statement_timeout", "30s"),
    ("lock_timeout", "1s"),
    ("idle_in_transaction_session_timeout", "30s"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("search_path", "pg_catalog"),
];

/// The caller's options with our settings on top.
pub(crate) fn own_connection(options: PgConnectOptions) -> PgConnectOptions {
    let options = match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("outbox"),
    };
    options.options(SETTINGS)
}

/// The same for a connection that vacuums: that takes as long as it takes, and less than this.
pub(crate) fn for_vacuum(options: PgConnectOptions) -> PgConnectOptions {
    options.options([("statement_timeout", "1h")])
}

/// The same for claims, renewals and settles.
pub(crate) fn for_control(options: PgConnectOptions, durability: Durability) -> PgConnectOptions {
    match durability {
        Durability::Strict => options,
        Durability::Relaxed => options.options([("synchronous_commit", "off")]),
    }
}

/// Reads a URL. No error repeats it: it may hold a password, wherever the caller put that.
pub(crate) fn options_of(url: &str) -> Result<PgConnectOptions, Error> {
    let refused = |message| {
        Error::new(ErrorKind::InvalidConfig, "connect", message).with_advice(
            "write it as postgres://user:password@host/database, and percent-encode what is not \
             a letter, a digit or one of -._~ in its parts",
        )
    };
    let unreadable = || refused("the URL of the database cannot be read");
    let (scheme, _) = url.split_once("://").ok_or_else(unreadable)?;
    // sqlx does not look at it.
    if !["postgres", "postgresql"].contains(&scheme.to_ascii_lowercase().as_str()) {
        return Err(refused("the URL is not one of Postgres"));
    }
    url.parse()
        .map_err(|error: sqlx::Error| unreadable().with_source(error))
}

/// Opens a connection.
pub(crate) async fn connect(
    options: &PgConnectOptions,
    operation: &'static str,
) -> Result<PgConnection, Error> {
    // Without a runtime sqlx panics. Which one it was built with is known to it alone: its features
    // may come from the caller's own dependency on it.
    let connecting = AssertUnwindSafe(PgConnection::connect_with(options)).catch_unwind();
    match connecting.await {
        Ok(connected) => connected.map_err(|error| storage_error(operation, error)),
        Err(panic) => match text_of(&*panic) {
            Some(text) if text.contains("runtime") || text.contains("Tokio") => {
                Err(without_runtime(operation).with_source(text))
            }
            _ => resume_unwind(panic),
        },
    }
}

fn without_runtime(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::InvalidConfig,
        operation,
        "sqlx cannot connect without a runtime",
    )
    .with_advice(
        "enable one of the cargo features tokio, smol and async-std of outbox (runtime-tokio, \
         runtime-smol or runtime-async-std of outbox-sqlx), and call this inside of that runtime",
    )
}

fn text_of(panic: &(dyn Any + Send)) -> Option<String> {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
}
