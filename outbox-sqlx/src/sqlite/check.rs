//! What a worker asks before its first claim: that the schema's version is the one of this build,
//! that the file has a write-ahead log and can be written, and that every statement can run. What
//! differs, column by column, is told by `verify.rs`.

use outbox_core::{Error, ErrorKind};
use sqlx::Row;

use super::error::storage_error;
use super::migrate::SCHEMA;
use super::storage::Inner;

/// Checks the version, the journal and the statements.
pub(super) async fn check(inner: &Inner) -> Result<(), Error> {
    // One from before the write-ahead log would wait for the write lock as SQLite does.
    inner.control.close().await;
    check_version(inner).await?;
    check_journal(inner).await?;
    let checked = check_statements(inner).await;
    checked.map_err(|error| SCHEMA.incomplete(&place(inner), error))
}

/// Checks that the schema's version is the one of this build.
pub(super) async fn check_version(inner: &Inner) -> Result<(), Error> {
    let query = sqlx::query(inner.statements.schema_version.clone());
    let rows = inner.control.fetch("check", query).await?;
    let version = rows.first().map(|row| row.try_get("version")).transpose();
    let version: Option<Option<i32>> = version.map_err(|error| storage_error("check", error))?;
    SCHEMA.accept(&place(inner), version.flatten().unwrap_or(0))
}

/// Checks that the database keeps a write-ahead log. With any other journal readers and the writer
/// wait for each other.
pub(super) async fn check_journal(inner: &Inner) -> Result<(), Error> {
    let query = sqlx::query(inner.statements.journal_mode.clone());
    let rows = inner.control.fetch("check", query).await?;
    let mode = rows.first().map(|row| row.try_get("journal_mode"));
    let mode: Option<String> = mode
        .transpose()
        .map_err(|error| storage_error("check", error))?;
    match mode.as_deref() {
        Some("wal") => Ok(()),
        other => {
            let other = other.unwrap_or("unknown");
            Err(Error::new(
                ErrorKind::SchemaDrift,
                "check",
                format!("the journal mode of the database is {other}, not wal"),
            )
            .with_advice(
                "run SqliteStorage::migrate(), and open no connection with another journal mode",
            ))
        }
    }
}

/// Lets SQLite read every statement of a worker, which fails where a table, a column or an index is
/// missing, and writes nothing, which fails where the file cannot be written.
async fn check_statements(inner: &Inner) -> Result<(), Error> {
    let mut all = inner.texts.all();
    all.push(&inner.statements.next_due);
    all.push(&inner.statements.large);
    all.push(&inner.statements.expired);
    inner.control.prepare("check", &all).await?;
    let query = sqlx::query(inner.statements.renew.clone()).bind("[]");
    inner.control.fetch("check", query).await?;
    Ok(())
}

fn place(inner: &Inner) -> String {
    format!("the tables {:?}", format!("{}_..", inner.prefix))
}
