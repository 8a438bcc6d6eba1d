//! The one error of the fixture: what went wrong and what to do, in one line.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// What kind of trouble the fixture has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FixtureErrorKind {
    /// `DATABASE_URL` is not set and this machine has no usable Postgres binaries.
    NotInstalled,
    /// `DATABASE_URL` is set and cannot be used.
    BadAddress,
    /// The throwaway cluster cannot be created, started or stopped.
    Cluster,
    /// A statement failed, or the connection for it.
    Database,
    /// The caller's closure that fills a template failed.
    Template,
    /// The awaited state did not come in time.
    Timeout,
    /// This server cannot do that.
    Unsupported,
}

/// The error of every function of the fixture.
///
/// `Display` prints one line, the problem and the remedy; the cause is in
/// [`source`](StdError::source). `Debug` prints the line and the whole chain, because that is
/// what `main` and `expect` show.
pub struct FixtureError {
    kind: FixtureErrorKind,
    problem: Cow<'static, str>,
    remedy: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl FixtureError {
    pub(super) fn new(
        kind: FixtureErrorKind,
        problem: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            kind,
            problem: problem.into(),
            remedy: remedy.into(),
            source: None,
        }
    }

    pub(super) fn with_source(
        mut self,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// A statement, named by `what`, failed.
    pub(super) fn database(what: impl fmt::Display, source: sqlx::Error) -> Self {
        Self::new(
            FixtureErrorKind::Database,
            format!("{what} failed"),
            "read the source error; the statement or the server is at fault",
        )
        .with_source(source)
    }

    /// What kind of trouble it is.
    #[must_use]
    pub const fn kind(&self) -> FixtureErrorKind {
        self.kind
    }
}

impl fmt::Display for FixtureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.problem, self.remedy)
    }
}

impl fmt::Debug for FixtureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, " (caused by: {error})")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for FixtureError {
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
    fn display_is_one_line_and_debug_adds_the_chain() {
        let error = FixtureError::new(FixtureErrorKind::Cluster, "initdb failed", "free some disk")
            .with_source(std::io::Error::other("no space left"));
        assert_eq!(error.to_string(), "initdb failed: free some disk");
        assert_eq!(
            format!("{error:?}"),
            "initdb failed: free some disk (caused by: no space left)"
        );
    }
}
