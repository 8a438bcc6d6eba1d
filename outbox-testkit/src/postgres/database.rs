//! A database of one test, and what a test does to it from outside of the code under test.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection};

use super::admin::Request;
use super::error::FixtureError;
use super::held_lock::HeldLock;
use super::server::Server;
use super::wait::wait_for;

/// A database that exists as long as this value.
///
/// Dropping it ends the sessions that are left and drops the database, and blocks the thread
/// for the few milliseconds that takes. The connections it makes are named `outbox-testkit`.
pub struct TestDatabase {
    server: Server,
    name: String,
    kept: bool,
    /// How many roles were asked for; their names follow from the number.
    roles: AtomicU32,
}

impl TestDatabase {
    pub(super) const fn new(server: Server, name: String) -> Self {
        Self {
            server,
            name,
            kept: false,
            roles: AtomicU32::new(0),
        }
    }

    /// Leaves the database to others.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }

    /// The URL to connect with: over TCP for a throwaway server, as `DATABASE_URL` says
    /// otherwise. It holds the password.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.inner.url.database(&self.name)
    }

    /// The URL over the Unix socket, for a throwaway server.
    #[must_use]
    pub fn socket_url(&self) -> Option<String> {
        let cluster = self.server.inner.cluster.as_ref()?;
        Some(cluster.socket_url(&self.name))
    }

    /// The name of the database: unique on its server, of lower-case letters, digits and `_`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Creates a role with these options, as in `"login password 'secret'"`, and returns its name,
    /// which begins with that of the database. It is dropped with the database, together with what
    /// it owns there; nothing else of it may be left then.
    ///
    /// # Errors
    /// The options are no SQL, or the role of the server's URL may not create roles.
    ///
    /// # Cancellation
    /// A dropped call may have created the role, which is dropped with the database all the same.
    pub async fn role(&self, options: &str) -> Result<String, FixtureError> {
        let number = self.roles.fetch_add(1, Ordering::Relaxed);
        let name = self.role_name(number);
        let request = Request::CreateRole {
            name: name.clone(),
            options: options.to_owned(),
        };
        self.server.inner.admin.ask(request).await?;
        Ok(name)
    }

    fn role_name(&self, number: u32) -> String {
        format!("{}_r{number}", self.name)
    }

    /// The server it is on.
    #[must_use]
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// Connects.
    ///
    /// # Errors
    /// The server is stopped or has no connection left.
    pub async fn connect(&self) -> Result<PgConnection, FixtureError> {
        PgConnection::connect_with(&self.options())
            .await
            .map_err(|error| FixtureError::database("connecting", error))
    }

    /// A pool of at most `size` connections, one of them open.
    ///
    /// # Errors
    /// The server is stopped or has no connection left.
    pub async fn pool(&self, size: u32) -> Result<PgPool, FixtureError> {
        PgPoolOptions::new()
            .max_connections(size)
            .connect_with(self.options())
            .await
            .map_err(|error| FixtureError::database("connecting", error))
    }

    /// Runs one or more statements on a new connection and returns how many rows they changed
    /// or returned. Several statements are one transaction.
    ///
    /// # Errors
    /// A statement failed.
    pub async fn execute(&self, sql: &str) -> Result<u64, FixtureError> {
        let mut connection = self.connect().await?;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut connection)
            .await
            .map(|done| done.rows_affected())
            .map_err(|error| FixtureError::database(format!("`{sql}`"), error))
    }

    /// Runs a query that returns one `bigint`, as `select count(*) ..` does.
    ///
    /// # Errors
    /// The query failed, or returned no row, null, or another type.
    pub async fn count(&self, sql: &str) -> Result<i64, FixtureError> {
        let mut connection = self.connect().await?;
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(&mut connection)
            .await
            .map_err(|error| FixtureError::database(format!("`{sql}`"), error))
    }

    /// Begins a transaction, runs `sql` in it, such as `select .. for update`, and holds its
    /// locks until the answer is dropped or released.
    ///
    /// # Errors
    /// The statement failed. It waits as long as others hold the same locks.
    pub async fn lock_rows(&self, sql: &str) -> Result<HeldLock, FixtureError> {
        HeldLock::hold(self.options(), sql).await
    }

    /// Ends the sessions of this database whose application name is like `application_like`
    /// (SQL's `like`), and returns how many when they are gone.
    ///
    /// # Errors
    /// The role may not end another role's session, or one was still there after 10 s.
    pub async fn terminate_backends(&self, application_like: &str) -> Result<u64, FixtureError> {
        let request = Request::Terminate {
            database: self.name.clone(),
            like: application_like.to_owned(),
        };
        self.server.inner.admin.ask(request).await
    }

    /// Ends all sessions of this database, and returns how many when they are gone.
    ///
    /// # Errors
    /// As [`terminate_backends`](Self::terminate_backends).
    pub async fn terminate_all(&self) -> Result<u64, FixtureError> {
        self.terminate_backends("%").await
    }

    /// Waits until a session whose query is like `query_like` (SQL's `like`) waits for a lock,
    /// at most 10 s, and returns its process id.
    ///
    /// # Errors
    /// `Timeout` if none did.
    pub async fn wait_until_blocked(&self, query_like: &str) -> Result<i32, FixtureError> {
        let sql = format!(
            "select pid from pg_stat_activity where datname = current_database()
             and wait_event_type = 'Lock' and query like {} and pid <> pg_backend_pid() limit 1",
            quoted(query_like, '\'')
        );
        let what = format!("a query like `{query_like}` waits for a lock");
        wait_for(&self.options(), &what, sql).await
    }

    /// Waits until a condition holds, as in `"(select count(*) from orders) = 10"`, by asking
    /// for it on a connection of its own, at most 10 s.
    ///
    /// # Errors
    /// `Timeout` if it did not hold, or it is not valid SQL.
    pub async fn wait_until(&self, condition: &str) -> Result<(), FixtureError> {
        let sql = format!("select 1 where {condition}");
        wait_for(&self.options(), condition, sql).await.map(drop)
    }

    /// Ends every lease in the outbox of `schema` a second ago, so that no test waits for one,
    /// and returns how many. A row that is locked is waited for.
    ///
    /// # Errors
    /// The schema has no outbox.
    pub async fn expire_leases(&self, schema: &str) -> Result<u64, FixtureError> {
        self.execute(&format!(
            "update {}.message set lease_expires_at = now() - interval '1 second'
             where acquired_token is not null",
            quoted(schema, '"')
        ))
        .await
    }

    /// Makes every future message in the outbox of `schema` due now, and returns how many.
    ///
    /// # Errors
    /// The schema has no outbox.
    pub async fn make_due(&self, schema: &str) -> Result<u64, FixtureError> {
        self.execute(&format!(
            "update {}.message set next_attempt_at = now() where next_attempt_at > now()",
            quoted(schema, '"')
        ))
        .await
    }

    fn options(&self) -> PgConnectOptions {
        PgConnectOptions::from_str(&self.url())
            .expect("the server's URL was parsed before")
            .application_name("outbox-testkit")
    }
}

impl fmt::Debug for TestDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestDatabase")
            .field("name", &self.name)
            .field("server", &self.server)
            .finish()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if !self.kept {
            let name = self.name.clone();
            let roles = 0..self.roles.load(Ordering::Relaxed);
            let roles = roles.map(|number| self.role_name(number)).collect();
            // A stopped server keeps it; a throwaway one is removed whole, another is swept.
            let request = Request::Drop { name, roles };
            let _ = self.server.inner.admin.ask_blocking(request);
        }
    }
}

/// A literal or an identifier, with its quotes doubled.
fn quoted(text: &str, quote: char) -> String {
    let doubled = text.replace(quote, &format!("{quote}{quote}"));
    format!("{quote}{doubled}{quote}")
}
