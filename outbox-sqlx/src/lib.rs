//! Postgres and SQLite for outbox, over sqlx: the storages a worker uses, the producers that write
//! in the caller's transaction, and the schemas both agree on.
//!
//! The statements live in `queries/`, one per file, and the schemas in `migrations/`. What is not
//! here: the worker (`outbox-core`) and the runtimes. The module `sqlite` holds what is SQLite's; what
//! is Postgres' is beside it, at the root.
//!
//! To reach Postgres, sqlx connects with the runtime and the TLS that its cargo features name, and none
//! is on by default: enable one of `runtime-tokio`, `runtime-smol` and `runtime-async-std`, here or in
//! your own dependency on sqlx, and one of the `tls-` features where the server asks for it. Without
//! them connecting is an [`ErrorKind::InvalidConfig`](outbox_core::ErrorKind::InvalidConfig). SQLite
//! needs neither.
#![cfg(any(feature = "postgres", feature = "sqlite"))]

// For both databases.
mod batch;
mod dead_letter;
mod diagnosis;
mod drift;
mod enqueued;
mod headers;
mod name;
mod outage;
mod outcomes;
mod rows;
mod statements;
mod timestamp;
mod version;

// Postgres.
#[cfg(feature = "postgres")]
mod check;
#[cfg(feature = "postgres")]
mod claim;
#[cfg(feature = "postgres")]
mod codec;
#[cfg(feature = "postgres")]
mod columns;
#[cfg(feature = "postgres")]
mod connect;
#[cfg(feature = "postgres")]
mod error;
#[cfg(feature = "postgres")]
mod expected;
#[cfg(feature = "postgres")]
mod house;
#[cfg(feature = "postgres")]
mod housekeep;
#[cfg(feature = "postgres")]
mod lane;
#[cfg(feature = "postgres")]
mod listener;
#[cfg(feature = "postgres")]
mod migrate;
#[cfg(feature = "postgres")]
mod neighbours;
#[cfg(feature = "postgres")]
mod operator;
#[cfg(feature = "postgres")]
mod producer;
#[cfg(feature = "postgres")]
mod renew;
#[cfg(feature = "postgres")]
mod schema_name;
#[cfg(feature = "postgres")]
mod settle;
#[cfg(feature = "postgres")]
mod storage;
#[cfg(feature = "postgres")]
mod verify;
#[cfg(feature = "postgres")]
mod watermark;

#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use dead_letter::{DeadLetter, DeadLetterQuery, Revived};
pub use enqueued::Enqueued;
#[cfg(feature = "postgres")]
pub use {
    migrate::schema_sql,
    producer::{PgOutbox, WakeUps},
    schema_name::SchemaName,
    storage::{Durability, PgStorage, PgStorageOptions},
};
