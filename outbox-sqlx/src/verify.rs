//! Reads the live schema from Postgres' catalogue, to be compared with the expected one.

use outbox_core::{Error, ErrorKind};
use sqlx::postgres::PgRow;
use sqlx::{Row, SqlStr};

use crate::check::check_version;
use crate::drift::{Live, LiveColumn, LiveIndex, differences};
use crate::error::storage_error;
use crate::expected::EXPECTED;
use crate::lane::Repeat;
use crate::storage::PgStorage;

impl PgStorage {
    /// Compares the live schema with the one this build expects: columns with their types,
    /// defaults and nullability, indexes with their keys, predicates and uniqueness, CHECKs, and
    /// storage options. For those who own their migrations; run it when a process starts. A worker
    /// itself checks only that its statements can run.
    ///
    /// Names of indexes and constraints do not matter, nor do columns and indexes of the caller's
    /// own, unless an insert without such a column would fail.
    ///
    /// # Errors
    /// [`ErrorKind::SchemaDrift`] naming every difference; [`ErrorKind::Unmigrated`] for a
    /// schema that is absent, or older or newer than this build; an error of the database.
    pub async fn verify_schema(&self) -> Result<(), Error> {
        check_version(&self.inner).await?;
        let live = self.live().await?;
        let differences = differences(&live, &EXPECTED);
        if differences.is_empty() {
            return Ok(());
        }
        let different = format!(
            "the schema {:?} differs from the one this build expects: {}",
            self.schema().as_str(),
            differences.join("; ")
        );
        let error = Error::new(ErrorKind::SchemaDrift, "verify_schema", different);
        Err(error.with_advice("bring it back to the one PgStorage::schema_sql() prints"))
    }

    async fn live(&self) -> Result<Live, Error> {
        let statements = &self.inner.statements;
        let columns = self.catalogue(&statements.verify_columns).await?;
        let indexes = self.catalogue(&statements.verify_indexes).await?;
        let checks = self.catalogue(&statements.verify_checks).await?;
        let options = self.catalogue(&statements.verify_options).await?;
        read(&columns, &indexes, &checks, &options)
            .map_err(|error| storage_error("verify_schema", error))
    }

    async fn catalogue(&self, sql: &SqlStr) -> Result<Vec<PgRow>, Error> {
        let schema = self.inner.schema.as_str();
        let answer = self
            .inner
            .control
            .fetch("verify_schema", Repeat::Harmless, || {
                sqlx::query(sql.clone()).bind(schema)
            })
            .await?;
        Ok(answer.rows)
    }
}

fn read(
    columns: &[PgRow],
    indexes: &[PgRow],
    checks: &[PgRow],
    options: &[PgRow],
) -> Result<Live, sqlx::Error> {
    let column = |row: &PgRow| {
        Ok(LiveColumn {
            table: row.try_get("table_name")?,
            name: row.try_get("column_name")?,
            sql_type: row.try_get("type")?,
            not_null: row.try_get("not_null")?,
            fills_itself: row.try_get("fills_itself")?,
            default: row.try_get("default_value")?,
        })
    };
    let index = |row: &PgRow| {
        Ok(LiveIndex {
            table: row.try_get("table_name")?,
            name: row.try_get("index_name")?,
            unique: row.try_get("is_unique")?,
            keys: row.try_get("keys")?,
            predicate: row.try_get("predicate")?,
        })
    };
    let check = |row: &PgRow| Ok((row.try_get("table_name")?, row.try_get("predicate")?));
    let option = |row: &PgRow| {
        Ok((
            row.try_get("table_name")?,
            row.try_get("name")?,
            row.try_get("value")?,
        ))
    };
    Ok(Live {
        columns: columns
            .iter()
            .map(column)
            .collect::<Result<_, sqlx::Error>>()?,
        indexes: indexes
            .iter()
            .map(index)
            .collect::<Result<_, sqlx::Error>>()?,
        checks: checks
            .iter()
            .map(check)
            .collect::<Result<_, sqlx::Error>>()?,
        options: options
            .iter()
            .map(option)
            .collect::<Result<_, sqlx::Error>>()?,
    })
}
