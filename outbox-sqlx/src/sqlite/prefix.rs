//! What the names of our tables begin with, and how texts of ours become SQL.

use crate::name::name_type;

name_type! {
    /// What the names of the tables begin with, followed by an underscore, so that one file can
    /// hold several outboxes beside other tables: a lower-case letter or underscore, then at most
    /// 39 letters, digits or underscores, and not `sqlite` in front, which SQLite keeps for itself.
    ///
    /// The default is `outbox`, which makes `outbox_message`, `outbox_dead_letter` and
    /// `outbox_schema_version`.
    TablePrefix, of "tables", not "sqlite" in front
}

/// The clock: milliseconds since the Unix epoch, from the host's clock as SQLite reads it. It stands
/// still while a statement runs.
///
/// Written with `julianday`, which every version of SQLite has, because the defaults of our columns
/// are evaluated by whatever program inserts. A day counted in doubles is exact to 0.04
/// milliseconds, so that rounding gives the millisecond SQLite read.
pub(crate) const NOW: &str = "cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer)";

impl TablePrefix {
    /// Puts the prefix and the clock into a text of ours.
    pub(crate) fn render(&self, template: &'static str) -> String {
        template.replace("{prefix}", &self.0).replace("{now}", NOW)
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::ErrorKind;

    use super::*;

    #[test]
    fn what_could_be_sql_or_belongs_to_sqlite_is_refused_with_the_rule() {
        assert!(TablePrefix::new("select").is_ok());
        for name in [
            "",
            "main.a",
            "a_message; drop table b; --",
            "a\"",
            "sqlite",
            "sqlite_x",
        ] {
            let error = TablePrefix::new(name).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.advice().contains("not sqlite in front"), "{error}");
        }
    }

    #[test]
    fn rendering_puts_in_the_name_and_the_clock() {
        let prefix = TablePrefix::new("jobs").expect("it is valid");
        let rendered = prefix.render("select {now} from {prefix}_message");
        assert_eq!(rendered, format!("select {NOW} from jobs_message"));
    }
}
