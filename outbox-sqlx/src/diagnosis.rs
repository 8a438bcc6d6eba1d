//! What both databases' errors have in common: how an error of sqlx becomes one of ours.

use outbox_core::{Error, ErrorKind};

/// What is wrong, and what to do about it where that is not the advice of the kind.
pub(crate) struct Diagnosis {
    pub(crate) kind: ErrorKind,
    pub(crate) message: &'static str,
    pub(crate) advice: Option<&'static str>,
}

impl Diagnosis {
    /// Our error, with the original as its source.
    pub(crate) fn error(self, operation: &'static str, source: sqlx::Error) -> Error {
        let mut error = Error::new(self.kind, operation, self.message);
        if let Some(advice) = self.advice {
            error = error.with_advice(advice);
        }
        error.with_source(source)
    }
}

/// The kind of an error; `of_database` tells it for one that the database itself answered.
pub(crate) fn kind_of(
    error: &sqlx::Error,
    of_database: impl FnOnce() -> Option<ErrorKind>,
) -> ErrorKind {
    match error {
        sqlx::Error::Database(_) => of_database().unwrap_or(ErrorKind::Storage),
        sqlx::Error::Io(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed => ErrorKind::Unavailable,
        sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => ErrorKind::InvalidConfig,
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) => ErrorKind::SchemaDrift,
        _ => ErrorKind::Storage,
    }
}
