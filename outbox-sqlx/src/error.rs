//! From sqlx's errors to ours: which pass by themselves, and what to do about the others.

use outbox_core::{Error, ErrorKind};
use sqlx::postgres::PgDatabaseError;

/// Turns an error of sqlx into ours, with the original as its source.
pub(crate) fn storage_error(operation: &'static str, source: sqlx::Error) -> Error {
    let kind = kind_of(&source);
    let (message, advice) = describe(kind, &source);
    let mut error = Error::new(kind, operation, message);
    if let Some(advice) = advice {
        error = error.with_advice(advice);
    }
    error.with_source(source)
}

/// Whether the connection is gone or of no use, so that nothing can be said about the statement.
pub(crate) fn is_connection_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(database) => database.code().is_some_and(|code| {
            code.starts_with("08") || code.starts_with("57P") || code == "25P03" || code == "25P04"
        }),
        _ => false,
    }
}

/// The server's error code, if it was the server that answered.
pub(crate) fn code_of(error: &sqlx::Error) -> Option<&str> {
    error
        .as_database_error()
        .and_then(|database| database.try_downcast_ref::<PgDatabaseError>())
        .map(PgDatabaseError::code)
}

fn kind_of(error: &sqlx::Error) -> ErrorKind {
    match error {
        sqlx::Error::Database(_) => code_of(error).map_or(ErrorKind::Storage, kind_of_code),
        sqlx::Error::Io(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed => ErrorKind::Unavailable,
        sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => ErrorKind::InvalidConfig,
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) => ErrorKind::SchemaDrift,
        _ => ErrorKind::Storage,
    }
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn kind_of_code(code: &str) -> ErrorKind {
    match code {
        // Undefined table or schema.
        "42P01" | "3F000" => ErrorKind::Unmigrated,
        // Undefined column; no unique index for "on conflict"; wrong type of a column.
        "42703" | "42P10" | "42804" => ErrorKind::SchemaDrift,
        // Read-only (a standby), serialization failure, deadlock, lock timeout, statement
        // timeout, and time limits of idle sessions and transactions.
        "25006" | "40001" | "40P01" | "55P03" | "57014" | "25P03" | "25P04" => {
            ErrorKind::Unavailable
        }
        // Connection exceptions, insufficient resources, shutdown and crash of the server.
        _ if code.starts_with("08") || code.starts_with("53") || code.starts_with("57P") => {
            ErrorKind::Unavailable
        }
        _ => ErrorKind::Storage,
    }
}

fn describe(kind: ErrorKind, source: &sqlx::Error) -> (&'static str, Option<&'static str>) {
    match kind {
        ErrorKind::Unmigrated => ("the tables of outbox are not in this database", None),
        ErrorKind::SchemaDrift => (
            "the tables of outbox are not the ones this build expects",
            Some("PgStorage::verify_schema() lists the differences"),
        ),
        ErrorKind::Unavailable => ("the database cannot do this now", None),
        ErrorKind::InvalidConfig => ("the connection settings cannot work", None),
        _ if code_of(source) == Some("42501") => (
            "the database role lacks a permission",
            Some("grant the role usage on the schema and all rights on its tables"),
        ),
        _ => ("the database refused the statement", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_pass_by_themselves_are_transient() {
        for code in [
            "08006", "08P01", "57P01", "57P02", "57P03", "53300", "53100", "25006", "40001",
            "40P01", "55P03", "57014", "25P03",
        ] {
            assert_eq!(kind_of_code(code), ErrorKind::Unavailable, "{code}");
        }
        for code in ["42501", "23505", "22021", "28P01", "0A000"] {
            assert_eq!(kind_of_code(code), ErrorKind::Storage, "{code}");
        }
        assert_eq!(kind_of_code("42P01"), ErrorKind::Unmigrated);
        assert_eq!(kind_of_code("3F000"), ErrorKind::Unmigrated);
        assert_eq!(kind_of_code("42703"), ErrorKind::SchemaDrift);
        assert_eq!(kind_of_code("42P10"), ErrorKind::SchemaDrift);
    }

    #[test]
    fn the_original_error_stays_reachable() {
        let error = storage_error("claim", sqlx::Error::WorkerCrashed);
        assert!(error.is_transient());
        assert!(std::error::Error::source(&error).is_some());
    }
}
