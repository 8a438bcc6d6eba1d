//! The schema's version: whether this build can work with the one it finds, and which migrations
//! are missing.

use std::cmp::Ordering;

use outbox_core::{Error, ErrorKind};

/// A database's schema, in the words of its errors.
pub(crate) struct Versioned {
    pub(crate) migrations: &'static [&'static str],
    /// What to do about a schema that is absent or too old.
    pub(crate) migrate: &'static str,
    /// What tells how a schema differs.
    pub(crate) verify: &'static str,
}

impl Versioned {
    fn supported(&self) -> i32 {
        i32::try_from(self.migrations.len()).unwrap_or(i32::MAX)
    }

    /// Accepts the version that this build works with, and no other. `place` says where it was
    /// found.
    pub(crate) fn accept(&self, place: &str, found: i32) -> Result<(), Error> {
        let supported = self.supported();
        match found.cmp(&supported) {
            Ordering::Equal => Ok(()),
            Ordering::Greater => Err(newer("check", found, supported)),
            Ordering::Less => {
                let old = format!("{place} has version {found}, and this build needs {supported}");
                Err(Error::new(ErrorKind::Unmigrated, "check", old).with_advice(self.migrate))
            }
        }
    }

    /// The migrations that come after the version found.
    pub(crate) fn missing(
        &self,
        found: i32,
    ) -> Result<impl Iterator<Item = &'static str> + use<>, Error> {
        let supported = self.supported();
        if found > supported {
            return Err(newer("migrate", found, supported));
        }
        let applied = usize::try_from(found).unwrap_or(0);
        Ok(self.migrations.iter().skip(applied).copied())
    }

    /// Why the statements of a worker cannot run, although the version is right.
    pub(crate) fn incomplete(&self, place: &str, error: Error) -> Error {
        if error.kind() != ErrorKind::Unmigrated {
            return error;
        }
        // Migrating would do nothing.
        let missing = format!("a table of {place} is missing");
        Error::new(ErrorKind::SchemaDrift, "check", missing)
            .with_advice(self.verify)
            .with_source(error)
    }
}

fn newer(operation: &'static str, found: i32, supported: i32) -> Error {
    Error::new(
        ErrorKind::Unmigrated,
        operation,
        format!("the schema has version {found}, and this build knows versions up to {supported}"),
    )
    .with_advice("upgrade the outbox crates; a newer build has migrated this database")
}
