//! The quickstart on SQLite: a file that is gone with the process.

pub(crate) use outbox::sqlite::{SqliteOutbox as Outbox, SqliteStorage as Storage};
pub(crate) use outbox_testkit::sqlite::TestFile as Database;
pub(crate) use sqlx::SqlitePool as Pool;

/// How a transaction that writes begins: with the write lock, of which SQLite has one.
pub(crate) const BEGIN: &str = "begin immediate";
pub(crate) const MESSAGES: &str = "outbox_message";
pub(crate) const DEAD_LETTERS: &str = "outbox_dead_letter";

#[path = "shop.rs"]
pub(crate) mod shop;
