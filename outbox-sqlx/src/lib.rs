//! Postgres for outbox, over sqlx: the storage a worker uses, the producer that writes in the
//! caller's transaction, and the schema both agree on.
//!
//! The statements live in `queries/`, one per file, and the schema in `migrations/`. What is not
//! here: the worker (`outbox-core`) and the runtimes.
#![cfg(feature = "postgres")]

mod claim;
mod codec;
mod columns;
mod connect;
mod dead_letter;
mod error;
mod expected;
mod lane;
mod listener;
mod migrate;
mod producer;
mod rows;
mod schema_name;
mod settle;
mod statements;
mod storage;
mod verify;

pub use dead_letter::{DeadLetter, DeadLetterQuery, Revived};
pub use migrate::schema_sql;
pub use producer::{Enqueued, PgOutbox, WakeUps};
pub use schema_name::SchemaName;
pub use storage::{PgStorage, PgStorageOptions};
