//! From Postgres' errors to ours: which pass by themselves, and what to do about the others.

use outbox_core::{Error, ErrorKind};
use sqlx::postgres::PgDatabaseError;

use crate::diagnosis::{Diagnosis, kind_of};
use crate::migrate::SCHEMA;

/// The server's code for a lock that others kept for longer than the connection waits.
pub(crate) const LOCK_TIMEOUT: &str = "55P03";

const NO_PERMISSION: &str = "42501";

/// Turns an error of sqlx into ours, with the original as its source.
pub(crate) fn storage_error(operation: &'static str, source: sqlx::Error) -> Error {
    let kind = kind_of(&source, || code_of(&source).map(kind_of_code));
    let (message, advice) = describe(kind, &source);
    let diagnosis = Diagnosis {
        kind,
        message,
        advice,
    };
    diagnosis.error(operation, source)
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

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn kind_of_code(code: &str) -> ErrorKind {
    match code {
        // Undefined table or schema.
        "42P01" | "3F000" => ErrorKind::Unmigrated,
        // Undefined column; no unique index for "on conflict"; wrong type of a column, or one for
        // which there is no such operator.
        "42703" | "42P10" | "42804" | "42883" => ErrorKind::SchemaDrift,
        // Read-only (a standby), serialization failure, deadlock, lock timeout, statement
        // timeout, time limits of idle sessions and transactions, and a database that is closed to
        // new connections for a while.
        "25006" | "40001" | "40P01" | LOCK_TIMEOUT | "57014" | "25P03" | "25P04" | "55000" => {
            ErrorKind::Unavailable
        }
        // Refused authorization; no such database; a role that may not do this.
        _ if code.starts_with("28") || code == "3D000" || code == NO_PERMISSION => {
            ErrorKind::InvalidConfig
        }
        // Connection exceptions, insufficient resources, shutdown and crash of the server.
        _ if code.starts_with("08") || code.starts_with("53") || code.starts_with("57P") => {
            ErrorKind::Unavailable
        }
        _ => ErrorKind::Storage,
    }
}

/// What is wrong, and what to do about it where that is not the advice of the kind.
fn describe(kind: ErrorKind, source: &sqlx::Error) -> (&'static str, Option<&'static str>) {
    match kind {
        ErrorKind::Unmigrated => (
            "the tables of outbox are not in this database",
            Some(SCHEMA.migrate),
        ),
        ErrorKind::SchemaDrift => (
            "the tables of outbox are not the ones this build expects",
            Some(SCHEMA.verify),
        ),
        ErrorKind::Unavailable => ("the database cannot do this now", None),
        ErrorKind::InvalidConfig => describe_settings(source),
        _ => match code_of(source) {
            Some("25P02") => (
                "an earlier statement of this transaction failed",
                Some("roll the transaction back: nothing more can be written in it"),
            ),
            _ => ("the database refused the statement", None),
        },
    }
}

fn describe_settings(source: &sqlx::Error) -> (&'static str, Option<&'static str>) {
    match source {
        sqlx::Error::Database(_) if code_of(source) == Some(NO_PERMISSION) => (
            "the database role lacks a permission",
            Some("grant the role usage on the schema and all rights on its tables"),
        ),
        sqlx::Error::Database(_) => (
            "the server refuses this user, password or database",
            Some("check the user, the password and the database of the connection settings"),
        ),
        // Only the text tells it from a handshake that failed.
        sqlx::Error::Tls(cause) if cause.to_string().contains("without TLS support") => (
            "the connection settings ask for TLS, which is not compiled in",
            Some(
                "enable one of the cargo features tls-rustls, tls-rustls-ring-native-roots, \
                 tls-rustls-aws-lc-rs and tls-native-tls of outbox, or change sslmode",
            ),
        ),
        sqlx::Error::Tls(_) => (
            "no TLS connection to the server can be made",
            Some("check sslmode and the certificates of the connection settings and of the server"),
        ),
        _ => (
            "the connection settings cannot work",
            Some("read the source error, which names the setting"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_pass_by_themselves_are_transient() {
        for code in [
            "08006", "08P01", "57P01", "57P02", "57P03", "53300", "53100", "25006", "40001",
            "40P01", "55P03", "57014", "25P03", "55000",
        ] {
            assert_eq!(kind_of_code(code), ErrorKind::Unavailable, "{code}");
        }
        for code in ["23505", "22021", "25P02", "0A000"] {
            assert_eq!(kind_of_code(code), ErrorKind::Storage, "{code}");
        }
        for code in ["28000", "28P01", "3D000", "42501"] {
            assert_eq!(kind_of_code(code), ErrorKind::InvalidConfig, "{code}");
        }
        assert_eq!(kind_of_code("42P01"), ErrorKind::Unmigrated);
        assert_eq!(kind_of_code("3F000"), ErrorKind::Unmigrated);
        assert_eq!(kind_of_code("42703"), ErrorKind::SchemaDrift);
        assert_eq!(kind_of_code("42P10"), ErrorKind::SchemaDrift);
        assert_eq!(kind_of_code("42883"), ErrorKind::SchemaDrift);
    }

    #[test]
    fn the_original_error_stays_reachable() {
        let error = storage_error("claim", sqlx::Error::WorkerCrashed);
        assert!(error.is_transient());
        assert!(std::error::Error::source(&error).is_some());
    }
}
