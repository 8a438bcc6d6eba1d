//! Every statement, loaded from its file and rendered once for a name. The text stays the same for
//! the life of a storage, so that each connection prepares it once.

use sqlx::SqlStr;

macro_rules! statements {
    ($type:ident of $of:ty { $($name:ident = $file:literal;)* }) => {
        /// The statements of one schema.
        pub(crate) struct $type {
            $(pub(crate) $name: SqlStr,)*
        }

        impl $type {
            pub(crate) fn new(of: &$of) -> Self {
                Self { $($name: of.sql(&[include_str!($file)]),)* }
            }
        }
    };
}

#[cfg(feature = "postgres")]
statements! { Statements of crate::schema_name::SchemaName {
    announce = "../queries/postgres/announce.sql";
    busy = "../queries/postgres/busy.sql";
    cancel_by_id = "../queries/postgres/cancel_by_id.sql";
    cancel_by_key = "../queries/postgres/cancel_by_key.sql";
    claim_clear = "../queries/postgres/claim_clear.sql";
    claim_expired = "../queries/postgres/claim_expired.sql";
    claim_pending = "../queries/postgres/claim_pending.sql";
    dead_letters = "../queries/postgres/dead_letters.sql";
    enqueue = "../queries/postgres/enqueue.sql";
    enqueue_keyed = "../queries/postgres/enqueue_keyed.sql";
    enqueue_many = "../queries/postgres/enqueue_many.sql";
    housekeeping = "../queries/postgres/housekeeping.sql";
    neighbours = "../queries/postgres/neighbours.sql";
    next_due = "../queries/postgres/next_due.sql";
    notice_disconnects = "../queries/postgres/notice_disconnects.sql";
    probe = "../queries/postgres/probe.sql";
    purge_dead_letters = "../queries/postgres/purge_dead_letters.sql";
    recover = "../queries/postgres/recover.sql";
    recovery = "../queries/postgres/recovery.sql";
    renew = "../queries/postgres/renew.sql";
    revive = "../queries/postgres/revive.sql";
    schema_version = "../queries/postgres/schema_version.sql";
    settle = "../queries/postgres/settle.sql";
    vacuum = "../queries/postgres/vacuum.sql";
    verify_checks = "../queries/postgres/verify_checks.sql";
    verify_columns = "../queries/postgres/verify_columns.sql";
    verify_indexes = "../queries/postgres/verify_indexes.sql";
    verify_options = "../queries/postgres/verify_options.sql";
} }

#[cfg(feature = "sqlite")]
statements! { SqliteStatements of crate::sqlite::TablePrefix {
    begin = "../queries/sqlite/begin.sql";
    bury = "../queries/sqlite/bury.sql";
    cancel_by_id = "../queries/sqlite/cancel_by_id.sql";
    cancel_by_key = "../queries/sqlite/cancel_by_key.sql";
    claim_pending = "../queries/sqlite/claim_pending.sql";
    commit = "../queries/sqlite/commit.sql";
    data_version = "../queries/sqlite/data_version.sql";
    database_file = "../queries/sqlite/database_file.sql";
    dead_letters = "../queries/sqlite/dead_letters.sql";
    enqueue = "../queries/sqlite/enqueue.sql";
    enqueue_many = "../queries/sqlite/enqueue_many.sql";
    expired = "../queries/sqlite/expired.sql";
    find_by_id = "../queries/sqlite/find_by_id.sql";
    find_by_key = "../queries/sqlite/find_by_key.sql";
    forget = "../queries/sqlite/forget.sql";
    held = "../queries/sqlite/held.sql";
    journal_mode = "../queries/sqlite/journal_mode.sql";
    large = "../queries/sqlite/large.sql";
    lock_database = "../queries/sqlite/lock_database.sql";
    next_due = "../queries/sqlite/next_due.sql";
    pending = "../queries/sqlite/pending.sql";
    purge_dead_letters = "../queries/sqlite/purge_dead_letters.sql";
    reclaim = "../queries/sqlite/reclaim.sql";
    recover = "../queries/sqlite/recover.sql";
    release = "../queries/sqlite/release.sql";
    remove = "../queries/sqlite/remove.sql";
    renew = "../queries/sqlite/renew.sql";
    revive = "../queries/sqlite/revive.sql";
    schema_version = "../queries/sqlite/schema_version.sql";
    set_journal_mode = "../queries/sqlite/set_journal_mode.sql";
    settle_delete = "../queries/sqlite/settle_delete.sql";
    settle_held = "../queries/sqlite/settle_held.sql";
    settle_return = "../queries/sqlite/settle_return.sql";
    verify_columns = "../queries/sqlite/verify_columns.sql";
    verify_indexes = "../queries/sqlite/verify_indexes.sql";
    verify_tables = "../queries/sqlite/verify_tables.sql";
    wait_briefly = "../queries/sqlite/wait_briefly.sql";
} }
