//! The name of the database schema: validated once, quoted everywhere. The only place where text
//! that is not a literal becomes SQL.

use std::fmt;
use std::sync::Arc;

use outbox_core::{Error, ErrorKind};
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

/// Longest name: what is derived from it must fit Postgres' 63 bytes.
const MAX_BYTES: usize = 40;

/// The Postgres schema that holds the tables: a lower-case letter or underscore, then at most 39
/// letters, digits or underscores, and not `pg_` in front, which the server keeps for itself.
///
/// The default is `outbox`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SchemaName(Arc<str>);

impl SchemaName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] where the name is not of the form above.
    pub fn new(name: &str) -> Result<Self, Error> {
        let mut bytes = name.bytes();
        let first = bytes
            .next()
            .is_some_and(|byte| byte == b'_' || byte.is_ascii_lowercase());
        let rest =
            bytes.all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if first && rest && name.len() <= MAX_BYTES && !name.starts_with("pg_") {
            return Ok(Self(Arc::from(name)));
        }
        Err(Error::new(
            ErrorKind::InvalidConfig,
            "configure",
            format!("{name:?} cannot be the name of the schema"),
        )
        .with_advice(
            "use a lower-case letter or underscore, then at most 39 lower-case letters, digits or \
             underscores, and not pg_ in front",
        ))
    }

    /// The name, without quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The channel of this schema's notifications.
    pub(crate) fn channel(&self) -> String {
        format!("{}_wake_up", self.0)
    }

    /// Puts the name into a text of ours: `{schema}` becomes the quoted name, `{schema_name}` the
    /// bare one for use inside a string literal.
    pub(crate) fn render(&self, template: &'static str) -> String {
        template
            .replace("{schema}", &format!("\"{}\"", self.0))
            .replace("{schema_name}", &self.0)
    }

    /// Texts of ours one after the other, rendered and ready to be sent. Safe because they are
    /// literals of this crate and the name holds nothing but letters, digits and underscores.
    pub(crate) fn sql(&self, templates: &[&'static str]) -> SqlStr {
        let text: String = templates
            .iter()
            .map(|template| self.render(template))
            .collect();
        AssertSqlSafe(Arc::<str>::from(text)).into_sql_str()
    }
}

impl Default for SchemaName {
    fn default() -> Self {
        Self(Arc::from("outbox"))
    }
}

impl fmt::Debug for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SchemaName({})", self.0)
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_are_accepted() {
        for name in ["outbox", "_o", "user", "a1_b", &"x".repeat(40)] {
            assert!(SchemaName::new(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn hostile_names_are_refused_with_the_rule() {
        for name in [
            "",
            "Outbox",
            "1a",
            "a-b",
            "a b",
            "a.b",
            "a\"; drop schema public cascade; --",
            "a'",
            "a\0",
            "ä",
            "pg_catalog",
            "{schema}",
            &"x".repeat(41),
        ] {
            let error = SchemaName::new(name).expect_err("it must be refused");
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.advice().contains("lower-case"), "{error}");
        }
    }

    #[test]
    fn rendering_quotes_the_name() {
        let name = SchemaName::new("user").expect("it is valid");
        assert_eq!(
            name.render("select '{schema_name}' from {schema}.message"),
            "select 'user' from \"user\".message"
        );
        assert_eq!(name.channel(), "user_wake_up");
    }
}
