//! The schema's versions: applying and printing them. Which one a worker finds is checked in
//! `check.rs`.

use outbox_core::Error;
use sqlx::{Connection, PgConnection, Row};

use crate::error::{code_of, storage_error};
use crate::schema_name::SchemaName;
use crate::storage::PgStorage;
use crate::version::Versioned;

/// The migrations in order; the first is version 1. Append only.
pub(crate) const SCHEMA: Versioned = Versioned {
    migrations: &[include_str!("../migrations/0001_messages.sql")],
    migrate: "run PgStorage::migrate() once, before workers start",
    verify: "PgStorage::verify_schema() lists the differences",
};

/// Sent in front of each migration, in the same implicit transaction. Another migrator may hold
/// the lock for as long as a migration takes; waiting for a table must be short, because everybody
/// else queues up behind it.
const PREAMBLE: &str = "\
set local statement_timeout = 0;
set local lock_timeout = '120s';
select pg_advisory_xact_lock(hashtextextended('outbox migration {schema_name}', 0));
set local lock_timeout = '5s';
";

/// Every statement that makes the schema, for those who keep their migrations elsewhere: run it in
/// one transaction on a database without the schema.
///
/// ```
/// let sql = outbox_sqlx::schema_sql(&outbox_sqlx::SchemaName::new("jobs")?);
/// assert!(sql.contains("create table \"jobs\".message"));
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[must_use]
pub fn schema_sql(schema: &SchemaName) -> String {
    SCHEMA
        .migrations
        .iter()
        .map(|migration| schema.render(migration))
        .collect::<Vec<_>>()
        .join("\n")
}

impl PgStorage {
    /// Brings the schema to the version of this build. Does nothing where it is there already;
    /// several processes may call it at once.
    ///
    /// Each migration is one transaction. The role needs `CREATE` on the database, or on a schema
    /// that an administrator made.
    ///
    /// # Errors
    /// [`ErrorKind::Unmigrated`](outbox_core::ErrorKind::Unmigrated) for a schema newer than this build; an error of the database.
    ///
    /// # Cancellation
    /// A dropped call has applied each migration as a whole or not at all.
    pub async fn migrate(&self) -> Result<(), Error> {
        let mut connection = self.inner.durable.first().connect("migrate").await?;
        let found = version(&mut connection, &self.inner.statements.schema_version)
            .await
            .map_err(|error| storage_error("migrate", error))?;
        for migration in SCHEMA.missing(found)? {
            self.apply(&mut connection, migration).await?;
        }
        // The statement is done, so nothing depends on how the connection ends.
        drop(connection.close().await);
        Ok(())
    }

    /// As [`schema_sql`], for the schema of this storage.
    #[must_use]
    pub fn schema_sql(&self) -> String {
        schema_sql(&self.inner.schema)
    }

    async fn apply(
        &self,
        connection: &mut PgConnection,
        migration: &'static str,
    ) -> Result<(), Error> {
        // One message of the simple protocol is one implicit transaction: neither an explicit
        // begin, whose future must not be dropped in sqlx 0.9.0, nor an open transaction.
        let sql = self.inner.schema.sql(&[PREAMBLE, migration]);
        match sqlx::raw_sql(sql).execute(connection).await {
            Ok(_) => Ok(()),
            // Somebody else wrote the version while this one waited for the lock.
            Err(error) if code_of(&error) == Some("23505") => Ok(()),
            Err(error) => Err(storage_error("migrate", error)),
        }
    }
}

/// The schema's version, 0 where it is absent.
async fn version(connection: &mut PgConnection, sql: &sqlx::SqlStr) -> Result<i32, sqlx::Error> {
    match sqlx::query(sql.clone()).fetch_one(connection).await {
        Ok(row) => Ok(row.try_get::<Option<i32>, _>("version")?.unwrap_or(0)),
        Err(error) if matches!(code_of(&error), Some("42P01" | "3F000")) => Ok(0),
        Err(error) => Err(error),
    }
}
