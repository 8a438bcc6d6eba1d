//! Reads the live schema from SQLite's catalogue, to be compared with the expected one.

use outbox_core::{Error, ErrorKind};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlStr};

use super::check::{check_journal, check_version};
use super::definition::Definition;
use super::error::storage_error;
use super::expected::EXPECTED;
use super::storage::SqliteStorage;
use crate::drift::{Live, LiveColumn, LiveIndex, differences};

impl SqliteStorage {
    /// Compares the live schema with the one this build expects: columns with their types,
    /// defaults and nullability, indexes with their keys, predicates and uniqueness, CHECKs,
    /// strictness, and the journal mode. For those who own their migrations; run it when a process
    /// starts. A worker itself checks only that its statements can run.
    ///
    /// Names of indexes and constraints do not matter, but for the two indexes that claims read by
    /// name (`.._message_pending_idx` and `.._message_lease_idx`); nor do columns and indexes of
    /// the caller's own, unless an insert without such a column would fail.
    ///
    /// # Errors
    /// [`ErrorKind::SchemaDrift`] naming every difference; [`ErrorKind::Unmigrated`] for a
    /// schema that is absent, or older or newer than this build; an error of the database.
    pub async fn verify_schema(&self) -> Result<(), Error> {
        check_version(&self.inner).await?;
        check_journal(&self.inner).await?;
        let live = self.live().await?;
        let differences = differences(&live, &EXPECTED);
        if differences.is_empty() {
            return Ok(());
        }
        let different = format!(
            "the tables {:?} differ from the ones this build expects: {}",
            format!("{}_..", self.inner.prefix),
            differences.join("; ")
        );
        let error = Error::new(ErrorKind::SchemaDrift, "verify_schema", different);
        Err(error.with_advice("bring them back to those SqliteStorage::schema_sql() prints"))
    }

    async fn live(&self) -> Result<Live, Error> {
        let statements = &self.inner.statements;
        let columns = self.catalogue(&statements.verify_columns).await?;
        let indexes = self.catalogue(&statements.verify_indexes).await?;
        let tables = self.catalogue(&statements.verify_tables).await?;
        read(&columns, &indexes, &tables).map_err(|error| storage_error("verify_schema", error))
    }

    async fn catalogue(&self, sql: &SqlStr) -> Result<Vec<SqliteRow>, Error> {
        let query = sqlx::query(sql.clone()).bind(self.inner.prefix.as_str());
        self.inner.control.fetch("verify_schema", query).await
    }
}

fn read(
    columns: &[SqliteRow],
    indexes: &[SqliteRow],
    tables: &[SqliteRow],
) -> Result<Live, sqlx::Error> {
    let mut live = Live {
        columns: Vec::new(),
        indexes: Vec::new(),
        checks: Vec::new(),
        options: Vec::new(),
    };
    for row in columns {
        live.columns.push(LiveColumn {
            table: row.try_get("table_name")?,
            name: row.try_get("column_name")?,
            sql_type: row.try_get("type")?,
            not_null: row.try_get("not_null")?,
            fills_itself: row.try_get("fills_itself")?,
            default: row.try_get("default_value")?,
        });
    }
    for row in indexes {
        let definition: Option<String> = row.try_get("definition")?;
        live.indexes.push(LiveIndex {
            table: row.try_get("table_name")?,
            name: row.try_get("index_name")?,
            unique: row.try_get("is_unique")?,
            keys: row
                .try_get::<Option<String>, _>("keys")?
                .unwrap_or_default(),
            predicate: definition.and_then(|made| Definition::new(&made).condition()),
        });
    }
    for row in tables {
        let table: String = row.try_get("table_name")?;
        let definition = Definition::new(row.try_get("definition")?);
        let options = [
            ("strict", row.try_get("is_strict")?),
            ("autoincrement", definition.says("autoincrement")),
        ];
        for (option, _) in options.iter().filter(|(_, is_set)| *is_set) {
            let option = (table.clone(), (*option).to_owned(), String::new());
            live.options.push(option);
        }
        let checks = definition.checks().into_iter();
        live.checks
            .extend(checks.map(|check| (table.clone(), check)));
    }
    Ok(live)
}
