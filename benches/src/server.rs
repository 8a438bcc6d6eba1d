//! Which Postgres, and the databases of the rounds.

use std::str::FromStr;
use std::time::Duration;

use outbox::Draft;
use outbox::postgres::PgStorage;
use outbox_testkit::postgres::{Server, ServerOptions, TestDatabase};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};

use crate::Error;
use crate::measure::Meter;

/// The queue of every workload.
pub(crate) const QUEUE: &str = "bench";
/// The kind of every message.
pub(crate) const KIND: &str = "noop";
/// The size of every payload.
pub(crate) const PAYLOAD_BYTES: usize = 100;

/// A server, and a meter on it.
pub(crate) struct Bench {
    pub(crate) server: Server,
    pub(crate) meter: Meter,
}

impl Bench {
    /// The server of `DATABASE_URL`, else a throwaway one with strict durability: it syncs to disk
    /// and waits for that with every commit. Autovacuum and all else are the server's defaults.
    pub(crate) async fn start() -> Result<Self, Error> {
        let server = match std::env::var("DATABASE_URL") {
            Ok(url) if !url.is_empty() => Server::connect(&url)?,
            _ => throwaway()?,
        };
        let meter = Meter::new(server.database().await?).await?;
        Ok(Self { server, meter })
    }

    /// What the figures depend on, in one line.
    pub(crate) async fn description(&self) -> Result<String, Error> {
        let whose = if self.server.is_throwaway() {
            "throwaway server"
        } else {
            "server of DATABASE_URL"
        };
        let settings = self.meter.settings().await?;
        let cores = std::thread::available_parallelism()?;
        Ok(format!("{whose}, {cores} cores, {settings}"))
    }

    /// A new database with an empty outbox.
    pub(crate) async fn database(&self) -> Result<TestDatabase, Error> {
        let migrate = |url: String| async move { PgStorage::connect(&url).await?.migrate().await };
        Ok(self.server.database_from("outbox", migrate).await?)
    }
}

/// Waits until nobody is connected to it: a session writes its statistics when it ends.
pub(crate) async fn wait_until_left(database: &TestDatabase) -> Result<(), Error> {
    // The first condition keeps out the session that asks.
    let nobody = "not exists (select from pg_stat_activity where datname = current_database()
         and backend_type = 'client backend' and pid <> pg_backend_pid())";
    Ok(database.wait_until(nobody).await?)
}

/// Connects as a careful program would: the planner keeps to the indexes, as on the connections
/// of the storage.
pub(crate) async fn connect(database: &TestDatabase) -> Result<PgConnection, Error> {
    let options = PgConnectOptions::from_str(&database.url())?
        .application_name("outbox-bench bare")
        .options([
            ("enable_seqscan", "off"),
            ("enable_bitmapscan", "off"),
            ("jit", "off"),
        ]);
    Ok(options.connect().await?)
}

/// A message that does nothing.
pub(crate) fn draft() -> Draft {
    Draft::bytes(QUEUE, KIND, payload())
}

/// The payload of every message.
pub(crate) fn payload() -> Vec<u8> {
    vec![b'x'; PAYLOAD_BYTES]
}

/// The lease of a handler that says nothing else.
pub(crate) const LEASE_TTL: Duration = outbox::limits::DEFAULT_LEASE_TTL;

fn throwaway() -> Result<Server, Error> {
    let durable = || ServerOptions::new().durable();
    let counting = durable().set("shared_preload_libraries", "pg_stat_statements");
    // Some packages come without the extension; then its columns stay empty.
    Ok(Server::start_throwaway(&counting).or_else(|_| Server::start_throwaway(&durable()))?)
}
