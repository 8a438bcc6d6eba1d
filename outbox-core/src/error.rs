//! The one public error of the framework: what went wrong, where, and what to do about it.
//!
//! Handlers do not return this type; they return [`Failure`](crate::Failure), which also says
//! what should happen to the message next.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// A source error of any type.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What kind of error it is. Few kinds, each with its own remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A message was refused before it reached the database; the caller's transaction is intact.
    InvalidMessage,
    /// The worker or a storage was configured in a way that cannot work.
    InvalidConfig,
    /// Two handlers serve the same queue and kind.
    DuplicateHandler,
    /// A handler asks for `Data<T>` that the worker was not given.
    MissingData,
    /// The schema is absent, or older or newer than this build supports.
    Unmigrated,
    /// The live schema differs from the one this build expects.
    SchemaDrift,
    /// The storage cannot be reached now; the same call may succeed later.
    Unavailable,
    /// The storage answered with an error that will not pass by itself.
    Storage,
    /// A payload could not be written as JSON when it was enqueued. One that cannot be *read* is
    /// no error of this kind: its message becomes a dead letter, `undecodable`.
    Codec,
    /// The storage does not offer what was asked. No storage of this workspace answers it: it is
    /// for storages of others that lack a verb.
    Unsupported,
    /// Code given to `Blocking` panicked.
    Blocking,
    /// The runtime ended before its worker, or cannot start the worker's threads.
    Runtime,
}

impl ErrorKind {
    /// The stable code, for searching and for alerts.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::InvalidMessage => "OBX0001",
            Self::InvalidConfig => "OBX0002",
            Self::DuplicateHandler => "OBX0003",
            Self::MissingData => "OBX0004",
            Self::Unmigrated => "OBX0005",
            Self::SchemaDrift => "OBX0006",
            Self::Unavailable => "OBX0007",
            Self::Storage => "OBX0008",
            Self::Codec => "OBX0009",
            Self::Unsupported => "OBX0010",
            Self::Blocking => "OBX0011",
            Self::Runtime => "OBX0012",
        }
    }

    const fn default_advice(self) -> &'static str {
        match self {
            Self::InvalidMessage => {
                "change the message; nothing was written and the transaction can go on"
            }
            Self::InvalidConfig => "change the setting named above",
            Self::DuplicateHandler => "register one handler for each queue and kind",
            Self::MissingData => "call .data(value) on the worker before it runs",
            Self::Unmigrated => "run the storage's migrate() once, before workers start",
            Self::SchemaDrift => {
                "bring the schema back to the one the storage's schema_sql() prints"
            }
            Self::Unavailable => "the call can be repeated; check that the database can be reached",
            Self::Storage => "read the source error; repeating the call will not help",
            Self::Codec => {
                "change the payload's Serialize; nothing was written and the transaction can go on"
            }
            Self::Unsupported => "use a storage that offers this, or do without it",
            Self::Blocking => "fix the panic; its message is on standard error",
            Self::Runtime => {
                "keep the runtime alive until the worker has returned, and leave it threads and file descriptors"
            }
        }
    }
}

/// The error of every public function of the framework.
///
/// `Display` prints this level only; the cause is in [`source`](StdError::source). Payloads are
/// never part of it.
pub struct Error {
    kind: ErrorKind,
    operation: &'static str,
    message: Cow<'static, str>,
    advice: Option<Cow<'static, str>>,
    source: Option<BoxError>,
}

impl Error {
    /// Creates an error of `kind` that happened during `operation`.
    #[must_use]
    pub fn new(
        kind: ErrorKind,
        operation: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            kind,
            operation,
            message: message.into(),
            advice: None,
            source: None,
        }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Replaces the advice of the kind with one for this case.
    #[must_use]
    pub fn with_advice(mut self, advice: impl Into<Cow<'static, str>>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// What kind of error it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The stable code of the kind.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.kind.code()
    }

    /// The operation that failed: `enqueue`, `claim`, `settle`, `renew`, ...
    #[must_use]
    pub const fn operation(&self) -> &'static str {
        self.operation
    }

    /// What is wrong, without the operation, the code and the advice.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it, in one line.
    #[must_use]
    pub fn advice(&self) -> &str {
        self.advice
            .as_deref()
            .unwrap_or_else(|| self.kind.default_advice())
    }

    /// Whether the same call may succeed later without any change. The outcome of a call that
    /// failed this way is unknown: it may have taken effect.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}, {}): {}",
            self.message,
            self.operation,
            self.code(),
            self.advice()
        )
    }
}

impl fmt::Debug for Error {
    /// One readable line with all causes: this is what `main`, `unwrap` and `expect` show.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        let mut cause = self.source();
        while let Some(source) = cause {
            write!(f, "; caused by: {source}")?;
            cause = source.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_the_problem_the_operation_the_code_and_the_remedy() {
        let error = Error::new(ErrorKind::InvalidMessage, "enqueue", "queue is empty");
        assert_eq!(
            error.to_string(),
            "queue is empty (enqueue, OBX0001): change the message; nothing was written and the transaction can go on"
        );
    }

    #[test]
    fn codes_are_pinned() {
        for (kind, code) in [
            (ErrorKind::InvalidMessage, "OBX0001"),
            (ErrorKind::InvalidConfig, "OBX0002"),
            (ErrorKind::DuplicateHandler, "OBX0003"),
            (ErrorKind::MissingData, "OBX0004"),
            (ErrorKind::Unmigrated, "OBX0005"),
            (ErrorKind::SchemaDrift, "OBX0006"),
            (ErrorKind::Unavailable, "OBX0007"),
            (ErrorKind::Storage, "OBX0008"),
            (ErrorKind::Codec, "OBX0009"),
            (ErrorKind::Unsupported, "OBX0010"),
            (ErrorKind::Blocking, "OBX0011"),
            (ErrorKind::Runtime, "OBX0012"),
        ] {
            assert_eq!(kind.code(), code);
        }
    }

    #[test]
    fn the_cause_is_in_source_and_not_in_display() {
        let cause = std::io::Error::other("connection reset");
        let error = Error::new(ErrorKind::Unavailable, "claim", "no connection").with_source(cause);
        assert!(!error.to_string().contains("reset"));
        assert_eq!(
            error.source().map(ToString::to_string),
            Some("connection reset".to_owned())
        );
        assert!(error.is_transient());
        assert!(format!("{error:?}").ends_with("; caused by: connection reset"));
    }
}
