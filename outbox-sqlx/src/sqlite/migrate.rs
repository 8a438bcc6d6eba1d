//! The schema's versions: applying and printing them. Which one a worker finds is checked in
//! `check.rs`.

use outbox_core::{Error, ErrorKind};
use sqlx::{Executor, Row, SqliteConnection};

use super::error::{is_busy, is_conflict, is_unmigrated, storage_error};
use super::prefix::TablePrefix;
use super::storage::{Inner, SqliteStorage};
use crate::name::ready;
use crate::version::Versioned;

/// The migrations in order; the first is version 1. Append only.
pub(super) const SCHEMA: Versioned = Versioned {
    migrations: &[include_str!("../../migrations/sqlite/0001_messages.sql")],
    migrate: "run SqliteStorage::migrate() once, before workers start",
    verify: "SqliteStorage::verify_schema() lists the differences",
};

/// How often the change to a write-ahead log is tried while others use the database. Each try waits
/// for them first.
const ROUNDS: usize = 20;

/// Every statement that makes the tables, for those who keep their migrations elsewhere: run it in
/// one transaction on a database without them, and set `pragma journal_mode = wal` before that,
/// which is not possible in a transaction.
///
/// ```
/// use outbox_sqlx::sqlite::{TablePrefix, schema_sql};
///
/// let sql = schema_sql(&TablePrefix::new("jobs")?);
/// assert!(sql.contains("create table jobs_message"));
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[must_use]
pub fn schema_sql(prefix: &TablePrefix) -> String {
    let rendered = SCHEMA.migrations.iter();
    let rendered: Vec<String> = rendered.map(|migration| prefix.render(migration)).collect();
    rendered.join("\n")
}

impl SqliteStorage {
    /// Brings the tables to the version of this build, and gives the file a write-ahead log. Does
    /// nothing where it is all there already; several processes may call it at once.
    ///
    /// # Errors
    /// [`ErrorKind::Unmigrated`] for a schema newer than this build; [`ErrorKind::InvalidConfig`]
    /// where the file cannot have a write-ahead log; an error of the database, transient where
    /// others use it for longer than this waits.
    ///
    /// # Cancellation
    /// A dropped call has applied each migration as a whole or not at all.
    pub async fn migrate(&self) -> Result<(), Error> {
        let inner = &self.inner;
        let mut connection = inner.durable.connect("migrate").await?;
        set_journal_mode(inner, &mut connection).await?;
        let found = version(inner, &mut connection)
            .await
            .map_err(|error| storage_error("migrate", error))?;
        for migration in SCHEMA.missing(found)? {
            apply(inner, &mut connection, migration)
                .await
                .map_err(|error| storage_error("migrate", error))?;
        }
        Ok(())
    }

    /// As [`schema_sql`], for the prefix of this storage.
    #[must_use]
    pub fn schema_sql(&self) -> String {
        schema_sql(&self.inner.prefix)
    }
}

/// Applies one migration in one transaction.
async fn apply(
    inner: &Inner,
    connection: &mut SqliteConnection,
    migration: &'static str,
) -> Result<(), sqlx::Error> {
    let begin = inner.statements.begin.as_str().to_owned();
    let commit = inner.statements.commit.as_str().to_owned();
    let text = [begin, ";\n".into(), inner.prefix.render(migration), commit];
    match connection.execute(sqlx::raw_sql(ready(text))).await {
        Ok(_) => Ok(()),
        // Somebody else wrote the version while this one waited for the lock. What the transaction
        // had done before goes with its connection.
        Err(error) if is_conflict(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The schema's version, 0 where it is absent.
async fn version(inner: &Inner, connection: &mut SqliteConnection) -> Result<i32, sqlx::Error> {
    let query = sqlx::query(inner.statements.schema_version.clone());
    match query.fetch_one(connection).await {
        Ok(row) => Ok(row.try_get::<Option<i32>, _>("version")?.unwrap_or(0)),
        Err(error) if is_unmigrated(&error) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Gives the file a write-ahead log. SQLite does not wait for others when it changes that, so the
/// wait comes before each try.
async fn set_journal_mode(inner: &Inner, connection: &mut SqliteConnection) -> Result<(), Error> {
    let statements = &inner.statements;
    let mut rounds = 0;
    loop {
        let query = sqlx::query(statements.set_journal_mode.clone());
        let set = query.fetch_one(&mut *connection).await;
        match set.and_then(|row| row.try_get::<String, _>("journal_mode")) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => return Err(without_log(&mode)),
            Err(error) if is_busy(&error) && rounds < ROUNDS => rounds += 1,
            Err(error) => return Err(storage_error("migrate", error)),
        }
        let wait = [&statements.lock_database, &statements.commit];
        let wait = wait.map(|statement| format!("{};\n", statement.as_str()));
        let waited = connection.execute(sqlx::raw_sql(ready(wait))).await;
        waited.map_err(|error| storage_error("migrate", error))?;
    }
}

fn without_log(mode: &str) -> Error {
    Error::new(
        ErrorKind::InvalidConfig,
        "migrate",
        format!("the file cannot have a write-ahead log; its journal mode stays {mode}"),
    )
    .with_advice("keep the file on a local disk")
}
