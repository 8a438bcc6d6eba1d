//! The name of the Postgres schema, and how it is put into SQL: quoted, everywhere.

use crate::name::name_type;

name_type! {
    /// The Postgres schema that holds the tables: a lower-case letter or underscore, then at most 39
    /// letters, digits or underscores, and not `pg_` in front, which the server keeps for itself.
    ///
    /// The default is `outbox`.
    SchemaName, of "the schema", not "pg_" in front
}

impl SchemaName {
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
}

#[cfg(test)]
mod tests {
    use outbox_core::ErrorKind;

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
