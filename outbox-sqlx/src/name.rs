//! Names that become part of SQL: validated once. The only place where text that is not a literal
//! becomes SQL.

use std::sync::Arc;

use outbox_core::{Error, ErrorKind};
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

/// Longest name: what is derived from it must fit Postgres' 63 bytes.
const MAX_BYTES: usize = 40;

/// The name that everything has unless the caller says otherwise.
pub(crate) const DEFAULT: &str = "outbox";

/// Checks that a name is plain, and not one that the database keeps for itself.
pub(crate) fn plain(name: &str, of: &str, reserved: &str) -> Result<Arc<str>, Error> {
    let mut bytes = name.bytes();
    let first = bytes
        .next()
        .is_some_and(|byte| byte == b'_' || byte.is_ascii_lowercase());
    let rest = bytes.all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if first && rest && name.len() <= MAX_BYTES && !name.starts_with(reserved) {
        return Ok(Arc::from(name));
    }
    Err(Error::new(
        ErrorKind::InvalidConfig,
        "configure",
        format!("{name:?} cannot be the name of {of}"),
    )
    .with_advice(format!(
        "use a lower-case letter or underscore, then at most 39 lower-case letters, digits or \
         underscores, and not {reserved} in front"
    )))
}

/// Texts one after the other, ready to be sent. Safe because they are literals of this crate, in
/// which nothing was replaced but by names that [`plain`] has passed and by other literals.
pub(crate) fn ready(texts: impl IntoIterator<Item = String>) -> SqlStr {
    let text: String = texts.into_iter().collect();
    AssertSqlSafe(Arc::<str>::from(text)).into_sql_str()
}

/// Makes the type of such a name. How it is rendered into a text is said by the type itself.
macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, of $of:literal, not $reserved:literal in front) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Checks a name.
            ///
            /// # Errors
            /// [`ErrorKind::InvalidConfig`](outbox_core::ErrorKind::InvalidConfig) where the name
            /// is not of the form above.
            pub fn new(name: &str) -> Result<Self, outbox_core::Error> {
                $crate::name::plain(name, $of, $reserved).map(Self)
            }

            /// The name, without quotes.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Texts of ours one after the other, rendered and ready to be sent.
            pub(crate) fn sql(&self, templates: &[&'static str]) -> sqlx::SqlStr {
                let texts = templates.iter().map(|template| self.render(template));
                $crate::name::ready(texts)
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self(std::sync::Arc::from($crate::name::DEFAULT))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

pub(crate) use name_type;
