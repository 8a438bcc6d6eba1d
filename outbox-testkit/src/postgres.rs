//! A Postgres for tests, examples and benchmarks: [`Server`] finds or starts one,
//! [`TestDatabase`] is a database of its own for each test, [`HeldLock`] forces a race.
//!
//! - With `DATABASE_URL` in the environment, that server is used and only databases and roles whose
//!   names start with `outbox_test_` are created or dropped there.
//! - Without it, a throwaway cluster is started from the Postgres binaries of this machine: in a
//!   temporary directory, on a free port of 127.0.0.1, with a random password. It ends with the
//!   process, even when that is killed.
//! - Without either, [`FixtureError`] says in one line what to install.
//!
//! No other server is ever contacted. Postgres 13 or newer, on Unix.
//!
//! A test runs on whatever runtime it likes, as long as sqlx is built with it: turn on the feature
//! `tokio`, `smol` or `async-std` beside `postgres`, and none of the others comes along.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use outbox_testkit::postgres::Server;
//!
//! let database = Server::shared()
//!     .database_from("shop", async |url| migrate(&url).await)
//!     .await?;
//! database.execute("insert into orders values (1)").await?;
//! assert_eq!(database.count("select count(*) from orders").await?, 1);
//! # Ok(())
//! # }
//! # async fn migrate(_: &str) -> Result<(), std::io::Error> { Ok(()) }
//! ```
//!
//! What a test writes into its database is not here: migrations are the caller's closures, so
//! that this crate depends on no storage.

mod account;
mod admin;
mod binaries;
mod cluster;
mod database;
mod driver;
mod entropy;
mod error;
mod held_lock;
mod options;
mod server;
mod url;
mod wait;
mod watchdog;

pub use database::TestDatabase;
pub use error::{FixtureError, FixtureErrorKind};
pub use held_lock::HeldLock;
pub use options::{ServerOptions, Shutdown};
pub use server::Server;
