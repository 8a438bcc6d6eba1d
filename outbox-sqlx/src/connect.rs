//! The settings of our own connections. The caller's connections are never touched.

use sqlx::postgres::PgConnectOptions;

/// Settings that hold for every connection of ours, whatever the role or the database says.
///
/// - Isolation: the statements rely on re-checking a row after a wait, which is READ COMMITTED.
/// - Limits: a statement of ours takes milliseconds; one that takes longer is stuck, and fails as
///   a transient error.
/// - Planner: every statement has its index. An empty table that was just vacuumed looks free to
///   scan, and a plan made then would scan the next backlog until the statistics catch up.
/// - Search path: every name of ours is qualified, and operators come from nowhere else.
const SETTINGS: [(&str, &str); 8] = [
    ("default_transaction_isolation", "read committed"),
    ("statement_timeout", "30s"),
    ("lock_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "30s"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
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
