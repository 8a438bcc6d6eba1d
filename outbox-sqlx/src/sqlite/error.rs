//! From SQLite's errors to ours: which pass by themselves, and what to do about the others.

use outbox_core::{Error, ErrorKind};

use crate::diagnosis::{Diagnosis, kind_of};

/// The code of a unique index that refused a row.
const CONSTRAINT_UNIQUE: i32 = 2067;
/// The codes of a primary key that refused a row.
const CONSTRAINT_PRIMARYKEY: i32 = 1555;
const CONSTRAINT_ROWID: i32 = 2579;
/// The code of a transaction that read before it wrote, when somebody else has written meanwhile.
const BUSY_SNAPSHOT: i32 = 517;

/// Turns an error of sqlx into ours, with the original as its source.
pub(super) fn storage_error(operation: &'static str, source: sqlx::Error) -> Error {
    diagnose(&source).error(operation, source)
}

/// Whether a unique index or a primary key refused a row.
pub(super) fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(
        code_of(error),
        Some(CONSTRAINT_UNIQUE | CONSTRAINT_PRIMARYKEY | CONSTRAINT_ROWID)
    )
}

/// Whether somebody else kept the lock for longer than the connection waits.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    code_of(error).is_some_and(|code| primary(code) == 5)
}

/// Whether a table is not there.
pub(super) fn is_unmigrated(error: &sqlx::Error) -> bool {
    diagnose(error).kind == ErrorKind::Unmigrated
}

fn code_of(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// The lowest byte of an extended code is the code.
const fn primary(code: i32) -> i32 {
    code & 0xff
}

fn diagnose(source: &sqlx::Error) -> Diagnosis {
    let database = source.as_database_error();
    let answered = database.and_then(|database| Some((code_of(source)?, database.message())));
    let kind = kind_of(source, || {
        answered.map(|(code, message)| kind_of_code(code, message))
    });
    let (message, advice) = describe(kind, answered.map(|(code, _)| code));
    Diagnosis {
        kind,
        message,
        advice,
    }
}

/// <https://www.sqlite.org/rescode.html>
fn kind_of_code(code: i32, message: &str) -> ErrorKind {
    match primary(code) {
        // Everything that is wrong with a statement has this one code; the text tells what.
        1 if message.starts_with("no such table") => ErrorKind::Unmigrated,
        1 if message.starts_with("no such column")
            || message.starts_with("no such index")
            // An index that cannot be used as a statement asks.
            || message.starts_with("no query solution")
            || message.contains("has no column named")
            || message.starts_with("ON CONFLICT clause does not match") =>
        {
            ErrorKind::SchemaDrift
        }
        // Busy, locked, out of memory, interrupted, input or output failed, disk full, and a lock
        // that could not be had in the scramble after a crash.
        5 | 6 | 7 | 9 | 10 | 13 | 15 => ErrorKind::Unavailable,
        // Read-only, cannot be opened, refused by the system or by an authorizer, not a database.
        3 | 8 | 14 | 23 | 26 => ErrorKind::InvalidConfig,
        _ => ErrorKind::Storage,
    }
}

/// What is wrong, and what to do about it where that is not the advice of the kind.
fn describe(kind: ErrorKind, code: Option<i32>) -> (&'static str, Option<&'static str>) {
    match (kind, code) {
        (ErrorKind::Unmigrated, _) => (
            "the tables of outbox are not in this database",
            Some(super::migrate::SCHEMA.migrate),
        ),
        (ErrorKind::SchemaDrift, _) => (
            "the tables of outbox are not the ones this build expects",
            Some(super::migrate::SCHEMA.verify),
        ),
        (ErrorKind::Unavailable, Some(BUSY_SNAPSHOT)) => (
            "this transaction read before it wrote, and somebody else has written meanwhile",
            Some(
                "roll back and repeat it, and begin transactions that write with \
                 begin_with(\"begin immediate\")",
            ),
        ),
        (ErrorKind::Unavailable, Some(code)) if primary(code) == 5 => (
            "another transaction has been writing for longer than the connection waits",
            Some(
                "keep transactions that write short; on your own connections set busy_timeout, and \
                 begin with begin_with(\"begin immediate\")",
            ),
        ),
        (ErrorKind::Unavailable, _) => ("the database cannot do this now", None),
        (ErrorKind::InvalidConfig, Some(code)) => match primary(code) {
            8 => (
                "the database can only be read",
                Some("open it without mode=ro, and let this process write the file and its folder"),
            ),
            14 => (
                "the database file cannot be opened",
                Some(
                    "check its path: the folder has to exist, and this process to be allowed to write there",
                ),
            ),
            26 => (
                "the file is not a SQLite database",
                Some("check its path, and its key if it is encrypted"),
            ),
            _ => (
                "access to the database file was refused",
                Some("let this process read and write the file and its folder"),
            ),
        },
        (ErrorKind::InvalidConfig, None) => (
            "the connection settings cannot work",
            Some("read the source error, which names the setting"),
        ),
        _ => ("the database refused the statement", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_pass_by_themselves_are_transient() {
        // Busy, in recovery, by a snapshot, by a timeout; locked; locked by a shared cache; disk
        // full; input or output; the locking protocol.
        for code in [5, 261, 517, 773, 6, 262, 13, 10, 778, 15, 7, 9] {
            assert_eq!(kind_of_code(code, ""), ErrorKind::Unavailable, "{code}");
        }
        for code in [8, 264, 1032, 14, 526, 26, 3, 23] {
            assert_eq!(kind_of_code(code, ""), ErrorKind::InvalidConfig, "{code}");
        }
        for code in [1, 11, 18, 19, 275, 1555, 2067] {
            assert_eq!(kind_of_code(code, ""), ErrorKind::Storage, "{code}");
        }
    }

    #[test]
    fn the_text_tells_what_is_wrong_with_a_statement() {
        for (text, kind) in [
            ("no such table: outbox_message", ErrorKind::Unmigrated),
            ("no such column: tag", ErrorKind::SchemaDrift),
            (
                "no such index: outbox_message_pending_idx",
                ErrorKind::SchemaDrift,
            ),
            ("no query solution", ErrorKind::SchemaDrift),
            (
                "table outbox_message has no column named tag",
                ErrorKind::SchemaDrift,
            ),
            (
                "ON CONFLICT clause does not match any PRIMARY KEY or UNIQUE constraint",
                ErrorKind::SchemaDrift,
            ),
            ("near \"selct\": syntax error", ErrorKind::Storage),
        ] {
            assert_eq!(kind_of_code(1, text), kind, "{text}");
        }
    }

    #[test]
    fn the_original_error_stays_reachable() {
        let error = storage_error("claim", sqlx::Error::WorkerCrashed);
        assert!(error.is_transient());
        assert!(std::error::Error::source(&error).is_some());
    }
}
