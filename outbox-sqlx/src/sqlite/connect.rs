//! Our own connections: reading their URL, their settings, and opening one. The caller's
//! connections are never touched.

use std::time::Duration;

use outbox_core::{Error, ErrorKind};
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{Connection, Row, SqlStr, SqliteConnection};

use super::error::storage_error;

/// How long a connection waits for locks while it is opened, and while a schema is made. What comes
/// after that waits as `lane.rs` says.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Rows of an answer that may wait to be read: all of them. With fewer, a transaction that nobody
/// reads the rows of would go on, and keep the write lock.
const ROW_BUFFER: usize = 1 << 30;

/// How much a commit of ours survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// A loss of power. For what somebody was told is written.
    Full,
    /// The end of the process, and with a loss of power all or nothing of each transaction. For
    /// claims, settles and renewals: a lost one is a message that runs again, as after any crash.
    /// Spares the disk a sync in each, during which nobody else could write.
    Relaxed,
}

/// The caller's options with our settings on top.
pub(super) fn own_connection(
    options: SqliteConnectOptions,
    durability: Durability,
) -> SqliteConnectOptions {
    let synchronous = match durability {
        Durability::Full => SqliteSynchronous::Full,
        Durability::Relaxed => SqliteSynchronous::Normal,
    };
    options
        .busy_timeout(BUSY_TIMEOUT)
        .row_buffer_size(ROW_BUFFER)
        .synchronous(synchronous)
        // Claims read their index forwards.
        .pragma("reverse_unordered_selects", "off")
}

/// Reads a path or a URL. The file is made where the URL does not say otherwise with `mode`.
pub(super) fn options_of(url: &str) -> Result<SqliteConnectOptions, Error> {
    let refused = |message| {
        Error::new(ErrorKind::InvalidConfig, "connect", message)
            .with_advice("give the path of a file, or write it as sqlite://path/to/file.db")
    };
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    if scheme.is_some_and(|scheme| scheme != "sqlite") {
        return Err(refused("the URL is not one of SQLite"));
    }
    let options: SqliteConnectOptions = url.parse().map_err(|error: sqlx::Error| {
        refused("the URL of the database cannot be read").with_source(error)
    })?;
    let says_mode = url
        .split_once('?')
        .is_some_and(|(_, settings)| settings.split('&').any(|one| one.starts_with("mode=")));
    Ok(if says_mode {
        options
    } else {
        options.create_if_missing(true)
    })
}

/// Opens a connection, and checks that others can open the same database.
pub(super) async fn connect(
    options: &SqliteConnectOptions,
    database_file: &SqlStr,
    operation: &'static str,
) -> Result<SqliteConnection, Error> {
    let opening = async {
        let mut connection = SqliteConnection::connect_with(options).await?;
        let row = sqlx::query(database_file.clone())
            .fetch_one(&mut connection)
            .await?;
        Ok((connection, row.try_get::<Option<String>, _>("file")?))
    };
    let opened: Result<_, sqlx::Error> = opening.await;
    let (connection, file) = opened.map_err(|error| storage_error(operation, error))?;
    if file.is_none_or(|file| file.is_empty()) {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            operation,
            "a database in memory belongs to one connection, and a worker needs several",
        )
        .with_advice("give the path of a file; for tests there is MemoryStorage"));
    }
    Ok(connection)
}
