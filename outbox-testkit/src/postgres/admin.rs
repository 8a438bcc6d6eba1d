//! The one connection that creates and drops databases and roles, on a thread of its own.
//!
//! A thread, because destructors cannot await, and because the tests that share a server each
//! have a runtime that ends before the server does.

use std::fmt;
use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures_channel::{mpsc as channel, oneshot};
use futures_util::stream::StreamExt;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection};

use super::driver::{driver, within};
use super::error::{FixtureError, FixtureErrorKind};
use super::url::ServerUrl;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const BUSY_LIMIT: Duration = Duration::from_secs(10);

/// What the connection is asked to do. Names are ours and need no quotes.
pub(super) enum Request {
    /// Connect, check the version, and drop what ended test runs left behind.
    Check,
    /// Create a database, empty or as a copy.
    Create {
        name: String,
        template: Option<String>,
    },
    /// End the sessions of a database and allow no others, so that it can be copied.
    Seal { name: String },
    /// Create a role of a database's test. The options are the test's own SQL.
    CreateRole { name: String, options: String },
    /// Drop a database with all its sessions, and then the roles of its test, if they exist.
    Drop { name: String, roles: Vec<String> },
    /// End the sessions of a database whose application name is like this; counts them.
    Terminate { database: String, like: String },
}

type Answer = Result<u64, FixtureError>;
type Reply = Box<dyn FnOnce(Answer) + Send>;

/// The way to the connection. Dropping it closes the connection and ends the thread.
pub(super) struct Admin {
    requests: Option<channel::UnboundedSender<(Request, Reply)>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Connects, and checks that the server can be used.
    pub(super) fn start(url: &ServerUrl, run: u64) -> Result<Self, FixtureError> {
        let (requests, mut inbox) = channel::unbounded::<(Request, Reply)>();
        let mut session = Session {
            options: url.options().application_name("outbox-testkit admin"),
            place: url.place(),
            run,
            connection: None,
        };
        let unstarted = |error| {
            FixtureError::new(
                FixtureErrorKind::Cluster,
                "the thread of the fixture cannot be started",
                "read the source error",
            )
            .with_source(error)
        };
        let drive = driver().map_err(unstarted)?;
        let serve = move || {
            drive(Box::pin(async move {
                while let Some((request, reply)) = inbox.next().await {
                    reply(session.answer(request).await);
                }
            }));
        };
        let thread = thread::Builder::new()
            .name("outbox-testkit".to_owned())
            .spawn(serve)
            .map_err(unstarted)?;
        let admin = Self {
            requests: Some(requests),
            thread: Some(thread),
        };
        admin.ask_blocking(Request::Check)?;
        Ok(admin)
    }

    /// Asks and awaits the answer. The request is carried out even if the future is dropped.
    pub(super) async fn ask(&self, request: Request) -> Answer {
        let (sender, receiver) = oneshot::channel();
        self.send(request, Box::new(move |answer| drop(sender.send(answer))));
        receiver.await.unwrap_or_else(|_| Err(thread_ended()))
    }

    /// Asks and blocks this thread until the answer: for destructors.
    pub(super) fn ask_blocking(&self, request: Request) -> Answer {
        let (sender, receiver) = mpsc::channel();
        self.send(request, Box::new(move |answer| drop(sender.send(answer))));
        receiver.recv().unwrap_or_else(|_| Err(thread_ended()))
    }

    fn send(&self, request: Request, reply: Reply) {
        if let Some(requests) = &self.requests {
            // A failed send drops the reply, which the asker sees.
            let _ = requests.unbounded_send((request, reply));
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Session {
    options: PgConnectOptions,
    place: String,
    run: u64,
    connection: Option<PgConnection>,
}

impl Session {
    async fn answer(&mut self, request: Request) -> Answer {
        match request {
            Request::Check => {
                self.check_version().await?;
                self.sweep().await
            }
            Request::Create { name, template } => self.create(&name, template.as_deref()).await,
            Request::Seal { name } => {
                let sql = format!("alter database {name} with allow_connections false");
                self.run("alter database", sql).await?;
                self.terminate(&name, "%").await
            }
            Request::CreateRole { name, options } => {
                let sql = format!("create role {name} {options}");
                self.run("create role", sql).await
            }
            Request::Drop { name, roles } => {
                let sql = format!("drop database if exists {name} with (force)");
                self.run("drop database", sql).await?;
                for role in roles {
                    let sql = format!("drop role if exists {role}");
                    self.run("drop role", sql).await?;
                }
                Ok(0)
            }
            Request::Terminate { database, like } => self.terminate(&database, &like).await,
        }
    }

    /// The connection, made anew if the server was restarted since.
    async fn connection(&mut self) -> Result<&mut PgConnection, FixtureError> {
        let alive = match self.connection.as_mut() {
            Some(connection) => connection.ping().await.is_ok(),
            None => false,
        };
        if !alive {
            let connecting = PgConnection::connect_with(&self.options);
            let mut connection = match within(CONNECT_LIMIT, connecting).await {
                Some(Ok(connection)) => connection,
                Some(Err(error)) => return Err(self.unreachable(error)),
                None => return Err(self.unreachable(io::Error::from(io::ErrorKind::TimedOut))),
            };
            // Held as long as this process lives; without it our databases count as left behind.
            sqlx::query("select pg_advisory_lock($1)")
                .bind(self.run.cast_signed())
                .execute(&mut connection)
                .await
                .map_err(|error| FixtureError::database("pg_advisory_lock", error))?;
            self.connection = Some(connection);
        }
        Ok(self.connection.as_mut().expect("it was made above"))
    }

    fn unreachable(&self, error: impl std::error::Error + Send + Sync + 'static) -> FixtureError {
        FixtureError::new(
            FixtureErrorKind::BadAddress,
            format!("cannot connect to Postgres at {}", self.place),
            "start that server, or unset DATABASE_URL to use a throwaway one",
        )
        .with_source(error)
    }

    async fn check_version(&mut self) -> Result<(), FixtureError> {
        let connection = self.connection().await?;
        let sql = "select current_setting('server_version_num')::int8";
        let version: i64 = sqlx::query_scalar(sql)
            .fetch_one(connection)
            .await
            .map_err(|error| FixtureError::database("reading the version", error))?;
        if version >= 130_000 {
            return Ok(());
        }
        Err(FixtureError::new(
            FixtureErrorKind::Unsupported,
            format!("the Postgres at {} is version {version}", self.place),
            "use version 13 or newer",
        ))
    }

    /// Drops the databases and roles of test runs that have ended. Whether one has is asked of the
    /// server: a process id would say nothing of a run on another machine or in another container.
    async fn sweep(&mut self) -> Answer {
        let sql = r"
            select 'drop ' || what || ' if exists ' || name
            from (
                select 'database' as what, datname::text as name
                from pg_database as d
                where not exists (select from pg_stat_activity as a where a.datid = d.oid)
                union all
                select 'role', rolname::text
                from pg_roles
            ) as ours
            where name ~ '^outbox_test_[0-9a-f]{16}_[0-9a-z_]+$'
              and not exists (
                  select from pg_locks
                  where locktype = 'advisory' and granted and objsubid = 1
                    and lpad(to_hex(classid::bigint), 8, '0') || lpad(to_hex(objid::bigint), 8, '0')
                        = substr(name, 13, 16))
            -- A role can be dropped once the databases are gone in which it owns something.
            order by what";
        let connection = self.connection().await?;
        let left: Vec<String> = sqlx::query_scalar(sql)
            .fetch_all(connection)
            .await
            .map_err(|error| FixtureError::database("listing what is left behind", error))?;
        let mut swept = 0;
        for sql in left {
            // Another run may sweep at the same time, and another role may own it.
            swept += u64::from(self.run("sweeping", sql).await.is_ok());
        }
        Ok(swept)
    }

    async fn create(&mut self, name: &str, template: Option<&str>) -> Answer {
        // `template1` may hold what the owner of the server put there.
        let from = template.unwrap_or("template0 encoding 'UTF8'");
        let sql = format!("create database {name} template {from}");
        let deadline = Instant::now() + BUSY_LIMIT;
        loop {
            let connection = self.connection().await?;
            let created = sqlx::raw_sql(AssertSqlSafe(sql.clone()))
                .execute(connection)
                .await;
            match created {
                Ok(_) => return Ok(0),
                // A session of the template that was ended may take a moment to go.
                Err(error) if has_code(&error, "55006") && Instant::now() < deadline => {
                    pause(Duration::from_millis(20));
                }
                Err(error) if has_code(&error, "42501") => {
                    let remedy = "grant CREATEDB to the role of DATABASE_URL, or unset it";
                    let problem = "the role may not create databases";
                    let error = FixtureError::new(FixtureErrorKind::Database, problem, remedy)
                        .with_source(error);
                    return Err(error);
                }
                Err(error) => return Err(FixtureError::database("create database", error)),
            }
        }
    }

    async fn terminate(&mut self, database: &str, like: &str) -> Answer {
        let connection = self.connection().await?;
        let failed = |error| FixtureError::database("pg_terminate_backend", error);
        // Materialized: as one more condition, the planner would end sessions first and ask which
        // database they are of afterwards.
        let ended: Vec<i32> = sqlx::query_scalar(
            "with chosen as materialized (
                 select pid from pg_stat_activity
                 where datname = $1 and application_name like $2
                   and backend_type = 'client backend')
             select pid from chosen where pg_terminate_backend(pid)",
        )
        .bind(database)
        .bind(like)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
        let deadline = Instant::now() + BUSY_LIMIT;
        loop {
            let left: i64 =
                sqlx::query_scalar("select count(*) from pg_stat_activity where pid = any($1)")
                    .bind(&ended)
                    .fetch_one(&mut *connection)
                    .await
                    .map_err(failed)?;
            if left == 0 {
                return Ok(ended.len() as u64);
            }
            if Instant::now() > deadline {
                return Err(FixtureError::new(
                    FixtureErrorKind::Timeout,
                    format!("{left} terminated sessions were still there after 10 seconds"),
                    "look at pg_stat_activity for what holds them",
                ));
            }
            pause(Duration::from_millis(5));
        }
    }

    async fn run(&mut self, what: impl fmt::Display, sql: String) -> Answer {
        let connection = self.connection().await?;
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(connection)
            .await
            .map(|done| done.rows_affected())
            .map_err(|error| FixtureError::database(what, error))
    }
}

/// Blocks the thread, on which nothing else runs.
fn pause(duration: Duration) {
    thread::sleep(duration);
}

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|found| found == code)
}

fn thread_ended() -> FixtureError {
    FixtureError::new(
        FixtureErrorKind::Database,
        "the connection thread of the fixture has ended",
        "look for its panic on standard error",
    )
}
