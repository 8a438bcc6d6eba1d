//! Opens accounts and greets them, with nothing to set up:
//!
//! ```console
//! $ cargo run --example quickstart                       # on a temporary SQLite file
//! $ cargo run --example quickstart -- --postgres         # the same on Postgres: DATABASE_URL's, or
//!                                                        # a throwaway server
//! $ cargo run --example quickstart -- --postgres URL     # or this one, in a database of its own
//! ```
//!
//! The example itself is `shop.rs`. It is compiled twice, as a part of `sqlite.rs` and of
//! `postgres.rs`, which say what `Pool`, `Outbox` and `Storage` are.

#![allow(
    clippy::duplicate_mod,
    reason = "shop.rs is meant to be compiled twice"
)]

mod postgres;
mod sqlite;

use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => sqlite::shop::run(sqlite::Database::new()?).await,
        ["--postgres"] => postgres::shop::run(postgres::database(None).await?).await,
        ["--postgres", url] => postgres::shop::run(postgres::database(Some(url)).await?).await,
        _ => Err("the arguments are: none, or --postgres [URL]".into()),
    }
}
