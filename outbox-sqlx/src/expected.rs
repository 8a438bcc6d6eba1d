//! The schema this build expects, in the words of Postgres' catalogue. The test that a freshly
//! migrated schema has no differences keeps it equal to the migrations.

use crate::drift::{Column, Expected, Fill, Index, column};

/// The schema: types as `format_type` spells them, defaults as `pg_get_expr` does.
pub(crate) const EXPECTED: Expected = Expected {
    tables: &TABLES,
    columns: &COLUMNS,
    indexes: &INDEXES,
    checks: &CHECKS,
    zero_options: &ZERO_OPTIONS,
    set_options: &SET_OPTIONS,
};

const M: &str = "message";
const D: &str = "dead_letter";
const V: &str = "schema_version";
const TIME: &str = "timestamp with time zone";

/// The tables.
const TABLES: [&str; 3] = [M, D, V];

/// Every column.
const COLUMNS: [Column; 40] = [
    column(M, "id", "bigint", true, Fill::Any),
    column(M, "queue", "text", true, Fill::None),
    column(M, "kind", "text", true, Fill::None),
    column(M, "payload", "bytea", true, Fill::None),
    column(M, "content_type", "text", true, Fill::None),
    column(M, "headers", "jsonb", false, Fill::None),
    column(M, "priority", "smallint", true, Fill::Default("0")),
    column(M, "key", "text", false, Fill::None),
    column(M, "group_key", "text", false, Fill::None),
    column(M, "tag", "text", false, Fill::None),
    column(M, "attempts", "smallint", true, Fill::Default("0")),
    column(M, "max_attempts", "smallint", true, Fill::Default("10")),
    column(M, "deliveries", "integer", true, Fill::Default("0")),
    column(M, "created_at", TIME, true, Fill::Default("now()")),
    column(M, "next_attempt_at", TIME, true, Fill::Default("now()")),
    column(M, "acquired_token", "uuid", false, Fill::None),
    column(M, "acquired_at", TIME, false, Fill::None),
    column(M, "lease_expires_at", TIME, false, Fill::None),
    column(M, "lease_losses", "smallint", true, Fill::Default("0")),
    column(M, "last_error", "text", false, Fill::None),
    column(D, "message_id", "bigint", true, Fill::None),
    column(D, "queue", "text", true, Fill::None),
    column(D, "kind", "text", true, Fill::None),
    column(D, "payload", "bytea", true, Fill::None),
    column(D, "content_type", "text", true, Fill::None),
    column(D, "headers", "jsonb", false, Fill::None),
    column(D, "priority", "smallint", true, Fill::None),
    column(D, "key", "text", false, Fill::None),
    column(D, "group_key", "text", false, Fill::None),
    column(D, "tag", "text", false, Fill::None),
    column(D, "attempts", "smallint", true, Fill::None),
    column(D, "max_attempts", "smallint", true, Fill::None),
    column(D, "deliveries", "integer", true, Fill::None),
    column(D, "lease_losses", "smallint", true, Fill::None),
    column(D, "created_at", TIME, true, Fill::None),
    column(D, "died_at", TIME, true, Fill::Default("now()")),
    column(D, "reason", "text", true, Fill::None),
    column(D, "last_error", "text", false, Fill::None),
    column(V, "version", "integer", true, Fill::None),
    column(V, "applied_at", TIME, true, Fill::Default("now()")),
];

/// Every index.
const INDEXES: [Index; 7] = [
    Index {
        table: M,
        name: "message_pkey",
        unique: true,
        keys: "id",
        predicate: None,
    },
    Index {
        table: M,
        name: "message_pending_idx",
        unique: false,
        keys: "queue, priority, next_attempt_at, id",
        predicate: Some("acquired_token is null"),
    },
    Index {
        table: M,
        name: "message_lease_idx",
        unique: false,
        keys: "queue, lease_expires_at, id",
        predicate: Some("acquired_token is not null"),
    },
    Index {
        table: M,
        name: "message_key_idx",
        unique: true,
        keys: "queue, key",
        predicate: Some("key is not null"),
    },
    Index {
        table: D,
        name: "dead_letter_pkey",
        unique: true,
        keys: "message_id",
        predicate: None,
    },
    Index {
        table: D,
        name: "dead_letter_queue_idx",
        unique: false,
        keys: "queue, died_at",
        predicate: None,
    },
    Index {
        table: V,
        name: "schema_version_pkey",
        unique: true,
        keys: "version",
        predicate: None,
    },
];

/// Every CHECK, by table and predicate.
const CHECKS: [(&str, &str); 5] = [
    (
        M,
        "(acquired_token is null) = (acquired_at is null) \
         and (acquired_token is null) = (lease_expires_at is null)",
    ),
    (M, "priority >= '-3'::integer and priority <= 3"),
    (M, "octet_length(queue) >= 1 and octet_length(queue) <= 255"),
    (M, "octet_length(kind) >= 1 and octet_length(kind) <= 255"),
    (M, "attempts >= 0 and max_attempts >= 1"),
];

/// Storage options that must be zero: a share of the table is no trigger for a queue.
const ZERO_OPTIONS: [(&str, &str); 3] = [
    (M, "autovacuum_vacuum_scale_factor"),
    (M, "autovacuum_vacuum_insert_scale_factor"),
    (M, "autovacuum_analyze_scale_factor"),
];

/// Storage options that must be set, to whatever suits the machine.
const SET_OPTIONS: [(&str, &str); 6] = [
    (M, "fillfactor"),
    (M, "autovacuum_vacuum_threshold"),
    (M, "autovacuum_vacuum_insert_threshold"),
    (M, "autovacuum_analyze_threshold"),
    (M, "autovacuum_vacuum_cost_delay"),
    (M, "vacuum_truncate"),
];
