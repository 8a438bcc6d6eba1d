//! A schema as it is and as it should be, compared by what it does: a renamed index is fine, one
//! with another predicate is not. What the caller added is the caller's own.

use std::fmt::Write as _;

/// A column: its type and its default as the catalogue spells them.
pub(crate) struct Column {
    pub(crate) table: &'static str,
    pub(crate) name: &'static str,
    pub(crate) sql_type: &'static str,
    pub(crate) not_null: bool,
    pub(crate) default: Fill,
}

/// What stands in for a value that an insert leaves out.
pub(crate) enum Fill {
    /// Nothing that matters.
    None,
    /// Exactly this default.
    Default(&'static str),
    /// An identity, or a default of any kind.
    Any,
}

/// An index, by what it does and not by its name.
pub(crate) struct Index {
    pub(crate) table: &'static str,
    /// The name we give it, for messages.
    pub(crate) name: &'static str,
    pub(crate) unique: bool,
    pub(crate) keys: &'static str,
    pub(crate) predicate: Option<&'static str>,
}

pub(crate) const fn column(
    table: &'static str,
    name: &'static str,
    sql_type: &'static str,
    not_null: bool,
    default: Fill,
) -> Column {
    Column {
        table,
        name,
        sql_type,
        not_null,
        default,
    }
}

/// A schema as a build expects it.
pub(crate) struct Expected {
    pub(crate) tables: &'static [&'static str],
    pub(crate) columns: &'static [Column],
    pub(crate) indexes: &'static [Index],
    /// By table and predicate.
    pub(crate) checks: &'static [(&'static str, &'static str)],
    /// Options of tables that must be zero.
    pub(crate) zero_options: &'static [(&'static str, &'static str)],
    /// Options of tables that must be set, to whatever suits the machine.
    pub(crate) set_options: &'static [(&'static str, &'static str)],
}

pub(crate) struct LiveColumn {
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) sql_type: String,
    pub(crate) not_null: bool,
    pub(crate) fills_itself: bool,
    pub(crate) default: Option<String>,
}

pub(crate) struct LiveIndex {
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) unique: bool,
    pub(crate) keys: String,
    pub(crate) predicate: Option<String>,
}

pub(crate) struct Live {
    pub(crate) columns: Vec<LiveColumn>,
    pub(crate) indexes: Vec<LiveIndex>,
    pub(crate) checks: Vec<(String, String)>,
    pub(crate) options: Vec<(String, String, String)>,
}

/// Names everything in which the live schema is not the one expected.
pub(crate) fn differences(live: &Live, expected: &Expected) -> Vec<String> {
    let mut found = Vec::new();
    for table in expected.tables {
        if !has_table(live, table) {
            found.push(format!("table {table} is missing"));
        }
    }
    let there = |table: &str| has_table(live, table);
    for column in expected.columns.iter().filter(|column| there(column.table)) {
        compare_column(live, column, &mut found);
    }
    for column in &live.columns {
        find_obstacle(column, expected, &mut found);
    }
    for index in expected.indexes.iter().filter(|index| there(index.table)) {
        compare_index(live, index, &mut found);
    }
    for (table, predicate) in expected.checks.iter().filter(|(table, _)| there(table)) {
        let present = live.checks.iter().any(|(live_table, live_predicate)| {
            live_table == table && plain(live_predicate) == plain(predicate)
        });
        if !present {
            found.push(format!("table {table} lacks check ({predicate})"));
        }
    }
    for (table, name) in expected
        .zero_options
        .iter()
        .filter(|(table, _)| there(table))
    {
        let zero = option(live, table, name).and_then(|value| value.parse::<f64>().ok());
        if zero != Some(0.0) {
            found.push(format!("table {table} must have the option {name} = 0"));
        }
    }
    for (table, name) in expected
        .set_options
        .iter()
        .filter(|(table, _)| there(table))
    {
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
fn find_obstacle(column: &LiveColumn, expected: &Expected, found: &mut Vec<String>) {
    let ours = expected
        .columns
        .iter()
        .any(|known| known.table == column.table && known.name == column.name);
    let written = expected.tables.contains(&column.table.as_str());
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
