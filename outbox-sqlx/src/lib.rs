//! outbox-sqlx.
