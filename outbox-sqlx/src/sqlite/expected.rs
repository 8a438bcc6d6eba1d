//! The schema this build expects, in the words of SQLite's catalogue. The test that a freshly
//! migrated schema has no differences keeps it equal to the migrations.

use super::prefix::NOW;
use crate::drift::{Column, Expected, Fill, Index, column};

/// The schema, without the prefix of its tables.
pub(super) const EXPECTED: Expected = Expected {
    tables: &TABLES,
    columns: &COLUMNS,
    indexes: &INDEXES,
    checks: &CHECKS,
    zero_options: &[],
    set_options: &OPTIONS,
};

const M: &str = "message";
const D: &str = "dead_letter";
const V: &str = "schema_version";

const TABLES: [&str; 3] = [M, D, V];

const COLUMNS: [Column; 40] = [
    column(M, "id", "integer", true, Fill::Any),
    column(M, "queue", "text", true, Fill::None),
    column(M, "kind", "text", true, Fill::None),
    column(M, "content_type", "text", true, Fill::None),
    column(M, "priority", "integer", true, Fill::Default("0")),
    column(M, "key", "text", false, Fill::None),
    column(M, "group_key", "text", false, Fill::None),
    column(M, "tag", "text", false, Fill::None),
    column(M, "attempts", "integer", true, Fill::Default("0")),
    column(M, "max_attempts", "integer", true, Fill::Default("10")),
    column(M, "deliveries", "integer", true, Fill::Default("0")),
    column(M, "created_at", "integer", true, Fill::Default(NOW)),
    column(M, "next_attempt_at", "integer", true, Fill::Default(NOW)),
    column(M, "acquired_token", "blob", false, Fill::None),
    column(M, "acquired_at", "integer", false, Fill::None),
    column(M, "lease_expires_at", "integer", false, Fill::None),
    column(M, "lease_losses", "integer", true, Fill::Default("0")),
    column(M, "last_error", "text", false, Fill::None),
    column(M, "headers", "text", false, Fill::None),
    column(M, "payload", "blob", true, Fill::None),
    column(D, "message_id", "integer", true, Fill::Any),
    column(D, "queue", "text", true, Fill::None),
    column(D, "kind", "text", true, Fill::None),
    column(D, "content_type", "text", true, Fill::None),
    column(D, "priority", "integer", true, Fill::None),
    column(D, "key", "text", false, Fill::None),
    column(D, "group_key", "text", false, Fill::None),
    column(D, "tag", "text", false, Fill::None),
    column(D, "attempts", "integer", true, Fill::None),
    column(D, "max_attempts", "integer", true, Fill::None),
    column(D, "deliveries", "integer", true, Fill::None),
    column(D, "lease_losses", "integer", true, Fill::None),
    column(D, "created_at", "integer", true, Fill::None),
    column(D, "died_at", "integer", true, Fill::Default(NOW)),
    column(D, "reason", "text", true, Fill::None),
    column(D, "last_error", "text", false, Fill::None),
    column(D, "headers", "text", false, Fill::None),
    column(D, "payload", "blob", true, Fill::None),
    column(V, "version", "integer", true, Fill::Any),
    column(V, "applied_at", "integer", true, Fill::Default(NOW)),
];

const fn index(
    table: &'static str,
    name: &'static str,
    keys: &'static str,
    predicate: Option<&'static str>,
) -> Index {
    Index {
        table,
        name,
        unique: false,
        keys,
        predicate,
    }
}

const INDEXES: [Index; 4] = [
    index(
        M,
        "message_pending_idx",
        "queue, priority, next_attempt_at",
        Some("acquired_token is null"),
    ),
    index(
        M,
        "message_lease_idx",
        "queue, lease_expires_at",
        Some("acquired_token is not null"),
    ),
    Index {
        unique: true,
        ..index(M, "message_key_idx", "queue, key", Some("key is not null"))
    },
    index(D, "dead_letter_queue_idx", "queue, died_at", None),
];

const CHECKS: [(&str, &str); 7] = [
    (
        M,
        "(acquired_token is null) = (acquired_at is null) \
         and (acquired_token is null) = (lease_expires_at is null)",
    ),
    (M, "length(acquired_token) = 16"),
    (M, "priority between -3 and 3"),
    (M, "length(cast(queue as blob)) between 1 and 255"),
    (M, "length(cast(kind as blob)) between 1 and 255"),
    (
        M,
        "attempts between 0 and 32767 and max_attempts between 1 and 32767",
    ),
    (
        M,
        "deliveries between 0 and 2147483647 and lease_losses between 0 and 32767",
    ),
];

/// What a table is made with, by the words of its definition.
const OPTIONS: [(&str, &str); 4] = [
    (M, "strict"),
    (M, "autoincrement"),
    (D, "strict"),
    (V, "strict"),
];
