//! SQLite for outbox: the storage a worker uses, the producer that writes in the caller's
//! transaction, and the schema both agree on.

mod check;
mod claim;
mod codec;
mod connect;
mod definition;
mod error;
mod expected;
mod expired;
mod lane;
mod lot;
mod migrate;
mod operator;
mod prefix;
mod producer;
mod rows;
mod settle;
mod storage;
mod texts;
mod verify;
mod wake_ups;

pub use migrate::schema_sql;
pub use prefix::TablePrefix;
pub use producer::SqliteOutbox;
pub use storage::{SqliteStorage, SqliteStorageOptions};
