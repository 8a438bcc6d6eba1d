//! Compares the live schema with the expected one by what it does: a renamed index is fine, one
//! with another predicate is not. What the caller added is the caller's own.

use std::fmt::Write as _;

use outbox_core::{Error, ErrorKind, Storage};
use sqlx::postgres::PgRow;
use sqlx::{Row, SqlStr};

use crate::error::storage_error;
use crate::expected::{
    CHECKS, COLUMNS, Column, Fill, INDEXES, Index, SET_OPTIONS, TABLES, ZERO_OPTIONS,
};
use crate::lane::Repeat;
use crate::storage::PgStorage;

struct LiveColumn {
    table: String,
    name: String,
    sql_type: String,
    not_null: bool,
    fills_itself: bool,
    default: Option<String>,
}

struct LiveIndex {
    table: String,
    name: String,
    unique: bool,
    keys: String,
    predicate: Option<String>,
}

struct Live {
    columns: Vec<LiveColumn>,
    indexes: Vec<LiveIndex>,
    checks: Vec<(String, String)>,
    options: Vec<(String, String, String)>,
}

impl PgStorage {
    /// Compares the live schema with the one this build expects: columns with their types,
    /// defaults and nullability, indexes with their keys, predicates and uniqueness, CHECKs, and
    /// storage options. For those who own their migrations; run it when a process starts.
    ///
    /// Names of indexes and constraints do not matter, nor do columns and indexes of the caller's
    /// own, unless an insert without such a column would fail.
    ///
    /// # Errors
    /// [`ErrorKind::SchemaDrift`] naming every difference; [`ErrorKind::Unmigrated`] as from
    /// [`check`](Storage::check); an error of the database.
    pub async fn verify_schema(&self) -> Result<(), Error> {
        self.check().await?;
        let live = self.live().await?;
        let differences = differences(&live);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::SchemaDrift,
            "verify_schema",
            format!(
                "the schema {:?} differs from the one this build expects: {}",
                self.schema().as_str(),
                differences.join("; ")
            ),
        ))
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

fn differences(live: &Live) -> Vec<String> {
    let mut found = Vec::new();
    for table in TABLES {
        if !has_table(live, table) {
            found.push(format!("table {table} is missing"));
        }
    }
    let expected = |table: &str| has_table(live, table);
    for column in COLUMNS.iter().filter(|column| expected(column.table)) {
        compare_column(live, column, &mut found);
    }
    for column in &live.columns {
        find_obstacle(column, &mut found);
    }
    for index in INDEXES.iter().filter(|index| expected(index.table)) {
        compare_index(live, index, &mut found);
    }
    for (table, predicate) in CHECKS.iter().filter(|(table, _)| expected(table)) {
        let present = live.checks.iter().any(|(live_table, live_predicate)| {
            live_table == table && plain(live_predicate) == plain(predicate)
        });
        if !present {
            found.push(format!("table {table} lacks check ({predicate})"));
        }
    }
    for (table, name) in ZERO_OPTIONS.iter().filter(|(table, _)| expected(table)) {
        let zero = option(live, table, name).and_then(|value| value.parse::<f64>().ok());
        if zero != Some(0.0) {
            found.push(format!("table {table} must have the option {name} = 0"));
        }
    }
    for (table, name) in SET_OPTIONS.iter().filter(|(table, _)| expected(table)) {
        if option(live, table, name).is_none() {
            found.push(format!("table {table} lacks the option {name}"));
        }
    }
    found
}

fn has_table(live: &Live, table: &str) -> bool {
    live.columns.iter().any(|column| column.table == table)
}

fn option<'l>(live: &'l Live, table: &str, name: &str) -> Option<&'l str> {
    live.options
        .iter()
        .find(|(live_table, live_name, _)| live_table == table && live_name == name)
        .map(|(_, _, value)| value.as_str())
}

fn compare_column(live: &Live, column: &Column, found: &mut Vec<String>) {
    let name = format!("{}.{}", column.table, column.name);
    let Some(there) = live
        .columns
        .iter()
        .find(|there| there.table == column.table && there.name == column.name)
    else {
        found.push(format!("column {name} is missing"));
        return;
    };
    if there.sql_type != column.sql_type {
        found.push(format!(
            "column {name} is {}, not {}",
            there.sql_type, column.sql_type
        ));
    }
    match (there.not_null, column.not_null) {
        (true, false) => found.push(format!("column {name} must allow null")),
        (false, true) => found.push(format!("column {name} must not allow null")),
        (true, true) | (false, false) => {}
    }
    match column.default {
        Fill::None => {}
        Fill::Any if there.fills_itself => {}
        Fill::Any => found.push(format!("column {name} must generate its values")),
        Fill::Default(default) => {
            let live_default = there.default.as_deref().unwrap_or("nothing");
            if plain(live_default) != plain(default) {
                found.push(format!(
                    "column {name} defaults to {live_default}, not {default}"
                ));
            }
        }
    }
}

/// A column of the caller's own that makes our inserts fail.
fn find_obstacle(column: &LiveColumn, found: &mut Vec<String>) {
    let ours = COLUMNS
        .iter()
        .any(|known| known.table == column.table && known.name == column.name);
    let written = TABLES.contains(&column.table.as_str());
    if written && !ours && column.not_null && !column.fills_itself {
        found.push(format!(
            "column {}.{} must allow null or have a default",
            column.table, column.name
        ));
    }
}

fn compare_index(live: &Live, index: &Index, found: &mut Vec<String>) {
    let present = live.indexes.iter().any(|there| {
        there.table == index.table
            && there.unique == index.unique
            && there.keys == index.keys
            && there.predicate.as_deref().map(plain) == index.predicate.map(plain)
    });
    if present {
        return;
    }
    let mut difference = format!(
        "table {} lacks {} index on ({})",
        index.table,
        if index.unique { "a unique" } else { "an" },
        index.keys
    );
    if let Some(predicate) = index.predicate {
        // Writing to a String cannot fail.
        let _ = write!(difference, " where {predicate}");
    }
    let namesake = live
        .indexes
        .iter()
        .find(|there| there.table == index.table && there.name == index.name);
    if let Some(there) = namesake {
        let _ = write!(
            difference,
            " (its {} is {}on ({}){}{})",
            there.name,
            if there.unique { "unique " } else { "" },
            there.keys,
            if there.predicate.is_some() {
                " where "
            } else {
                ""
            },
            there.predicate.as_deref().unwrap_or_default()
        );
    }
    found.push(difference);
}

/// A predicate without what the catalogue adds or leaves out freely: case, space, parentheses.
fn plain(expression: &str) -> String {
    expression
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '(' && *c != ')')
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn predicates_are_compared_without_their_dress() {
        assert_eq!(
            plain("((priority >= '-3'::integer) AND (priority <= 3))"),
            plain("priority >= '-3'::integer and priority <= 3")
        );
        assert_ne!(plain("key IS NULL"), plain("key is not null"));
    }
}
