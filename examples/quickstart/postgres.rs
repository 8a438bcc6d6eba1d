//! The quickstart on Postgres: a database that is dropped at the end.

pub(crate) use outbox::postgres::{PgOutbox as Outbox, PgStorage as Storage};
pub(crate) use outbox_testkit::postgres::TestDatabase as Database;
use outbox_testkit::postgres::{FixtureError, Server};
pub(crate) use sqlx::PgPool as Pool;

/// How a transaction begins.
pub(crate) const BEGIN: &str = "begin";
pub(crate) const MESSAGES: &str = "outbox.message";
pub(crate) const DEAD_LETTERS: &str = "outbox.dead_letter";

#[path = "shop.rs"]
pub(crate) mod shop;

/// A new database on this server, or on that of DATABASE_URL, or on a throwaway one.
pub(crate) async fn database(url: Option<&str>) -> Result<Database, FixtureError> {
    let server = match url {
        Some(url) => Server::connect(url)?,
        None => Server::start()?,
    };
    server.database().await
}
