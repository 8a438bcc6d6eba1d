//! Every statement, loaded from its file and rendered once for a schema. The text stays the same
//! for the life of a storage, so that each connection prepares it once.

use sqlx::SqlStr;

use crate::schema_name::SchemaName;

macro_rules! statements {
    ($($name:ident = $file:literal;)*) => {
        /// The statements of one schema.
        pub(crate) struct Statements {
            $(pub(crate) $name: SqlStr,)*
        }

        impl Statements {
            pub(crate) fn new(schema: &SchemaName) -> Self {
                Self { $($name: schema.sql(&[include_str!($file)]),)* }
            }
        }
    };
}

statements! {
    announce = "../queries/postgres/announce.sql";
    cancel_by_id = "../queries/postgres/cancel_by_id.sql";
    cancel_by_key = "../queries/postgres/cancel_by_key.sql";
    claim_expired = "../queries/postgres/claim_expired.sql";
    claim_pending = "../queries/postgres/claim_pending.sql";
    dead_letters = "../queries/postgres/dead_letters.sql";
    enqueue = "../queries/postgres/enqueue.sql";
    enqueue_many = "../queries/postgres/enqueue_many.sql";
    next_due = "../queries/postgres/next_due.sql";
    probe = "../queries/postgres/probe.sql";
    purge_dead_letters = "../queries/postgres/purge_dead_letters.sql";
    recover = "../queries/postgres/recover.sql";
    recovery = "../queries/postgres/recovery.sql";
    renew = "../queries/postgres/renew.sql";
    revive = "../queries/postgres/revive.sql";
    schema_version = "../queries/postgres/schema_version.sql";
    settle = "../queries/postgres/settle.sql";
    verify_checks = "../queries/postgres/verify_checks.sql";
    verify_columns = "../queries/postgres/verify_columns.sql";
    verify_indexes = "../queries/postgres/verify_indexes.sql";
    verify_options = "../queries/postgres/verify_options.sql";
}
