//! What a worker asks before its first claim: that the schema's version is the one of this build,
//! and that every statement of a worker can run. What differs, column by column, is told by
//! `verify.rs`.

use outbox_core::Error;
use sqlx::Row;

use crate::error::storage_error;
use crate::lane::Repeat;
use crate::migrate::SCHEMA;
use crate::storage::Inner;
use crate::{claim, renew, settle};

/// Checks the version, and the statements.
pub(crate) async fn check(inner: &Inner) -> Result<(), Error> {
    check_version(inner).await?;
    let checked = check_statements(inner).await;
    checked.map_err(|error| SCHEMA.incomplete(&place(inner), error))
}

/// Checks that the schema's version is the one of this build.
pub(crate) async fn check_version(inner: &Inner) -> Result<(), Error> {
    let sql = &inner.statements.schema_version;
    let answer = inner
        .control
        .fetch("check", Repeat::Harmless, || sqlx::query(sql.clone()))
        .await?;
    let found = answer
        .rows
        .first()
        .map(|row| row.try_get::<Option<i32>, _>("version"))
        .transpose()
        .map_err(|error| storage_error("check", error))?
        .flatten()
        .unwrap_or(0);
    SCHEMA.accept(&place(inner), found)
}

fn place(inner: &Inner) -> String {
    format!("the schema {:?}", inner.schema.as_str())
}

/// Runs each statement of a worker about nothing: no queue, no message. That reads and writes
/// nothing, but fails where a column or a table is missing and, unlike preparing it, where a
/// permission is.
async fn check_statements(inner: &Inner) -> Result<(), Error> {
    claim::check(inner).await?;
    settle::check(inner).await?;
    // Not on the connection of the renewals, which belongs to the heartbeat's thread.
    renew::renew(inner, inner.control.first(), &[]).await?;
    Ok(())
}
