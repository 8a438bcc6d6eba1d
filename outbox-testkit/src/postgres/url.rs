//! The address of a server, from which the addresses of its databases are made.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use super::error::{FixtureError, FixtureErrorKind};

/// A connection URL, taken apart around its database.
#[derive(Clone)]
pub(super) struct ServerUrl {
    whole: String,
    before: String,
    query: String,
}

impl ServerUrl {
    /// Takes a URL apart. Errors name no part of it, since it may hold a password.
    pub(super) fn parse(url: &str) -> Result<Self, FixtureError> {
        let rest = ["postgres://", "postgresql://"]
            .into_iter()
            .find_map(|scheme| url.strip_prefix(scheme))
            .ok_or_else(|| bad_address("it does not start with postgres://"))?;
        PgConnectOptions::from_str(url)
            .map_err(|error| bad_address("it cannot be parsed").with_source(error))?;
        let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = location.split_once('/').map_or(location, |split| split.0);
        // `dbname` in the query would win over the path that names the test's database.
        let query: Vec<&str> = query
            .split('&')
            .filter(|pair| !pair.is_empty() && !pair.starts_with("dbname="))
            .collect();
        let scheme = url.len() - rest.len();
        Ok(Self {
            whole: url.to_owned(),
            before: format!("{}{authority}", &url[..scheme]),
            query: query.join("&"),
        })
    }

    /// The URL of a database on this server. `name` is one of ours and needs no escaping.
    pub(super) fn database(&self, name: &str) -> String {
        if self.query.is_empty() {
            format!("{}/{name}", self.before)
        } else {
            format!("{}/{name}?{}", self.before, self.query)
        }
    }

    /// How to connect to the database the URL itself names.
    pub(super) fn options(&self) -> PgConnectOptions {
        PgConnectOptions::from_str(&self.whole).expect("parse() accepted it")
    }

    /// Host and port, or the folder of the socket: what may be shown.
    pub(super) fn place(&self) -> String {
        let options = self.options();
        match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        }
    }
}

fn bad_address(why: &str) -> FixtureError {
    FixtureError::new(
        FixtureErrorKind::BadAddress,
        format!("the address of the Postgres server (DATABASE_URL) cannot be used, {why}"),
        "write postgres://user:password@host:port/database, or unset it to use a throwaway server",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(url: &str) -> String {
        ServerUrl::parse(url).expect("a good URL").database("t1")
    }

    #[test]
    fn the_database_is_replaced_and_the_rest_kept() {
        assert_eq!(renamed("postgres://u:p@h:1/db"), "postgres://u:p@h:1/t1");
        assert_eq!(renamed("postgres://h"), "postgres://h/t1");
        assert_eq!(
            renamed("postgresql://h/db?sslmode=require&dbname=other"),
            "postgresql://h/t1?sslmode=require"
        );
        assert_eq!(
            renamed("postgres:///db?host=/run/pg"),
            "postgres:///t1?host=/run/pg"
        );
    }

    #[test]
    fn another_scheme_is_refused_without_showing_the_url() {
        let Err(error) = ServerUrl::parse("mysql://root:secret@h/db") else {
            panic!("accepted");
        };
        assert_eq!(error.kind(), FixtureErrorKind::BadAddress);
        assert!(!format!("{error:?}").contains("secret"));
    }
}
