//! Which Postgres, and the databases of the legs.

use leg::Error;
use outbox_testkit::postgres::{Server, ServerOptions, TestDatabase};
use sqlx::{Connection as _, PgConnection};

use crate::legs::Leg;

/// A server.
pub(crate) struct Bench {
    server: Server,
}

impl Bench {
    /// The server of `DATABASE_URL`, else a throwaway one with strict durability: it syncs to disk
    /// and waits for that with every commit. All else is the server's default, but for the number of
    /// connections: four processes with pools of 25 need more than 100.
    pub(crate) fn start() -> Result<Self, Error> {
        let server = match std::env::var("DATABASE_URL") {
            Ok(url) if !url.is_empty() => Server::connect(&url)?,
            _ => {
                let options = ServerOptions::new().durable();
                Server::start_throwaway(&options.set("max_connections", "300"))?
            }
        };
        Ok(Self { server })
    }

    /// What the figures depend on, in one line.
    pub(crate) async fn description(&self) -> Result<String, Error> {
        let whose = if self.server.is_throwaway() {
            "throwaway server"
        } else {
            "server of DATABASE_URL"
        };
        let database = self.server.database().await?;
        let sql = "select 'PostgreSQL ' || current_setting('server_version')
             || string_agg(', ' || name || ' = ' || current_setting(name), '' order by name)
             from pg_settings
             where name in ('fsync', 'synchronous_commit', 'shared_buffers', 'max_connections')";
        let mut connection = database.connect().await?;
        let settings: String = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
        let cores = std::thread::available_parallelism()?;
        Ok(format!("{whose}, {cores} cores, {settings}"))
    }

    /// An empty database.
    pub(crate) async fn empty(&self) -> Result<TestDatabase, Error> {
        Ok(self.server.database().await?)
    }

    /// A new database with so many messages of this leg, vacuumed and analyzed: as on a server whose
    /// autovacuum had a minute. It is a copy, so only the first one takes its time.
    pub(crate) async fn filled(&self, leg: &Leg, messages: usize) -> Result<TestDatabase, Error> {
        let name = format!("{} {messages}", leg.name);
        let fill = async |url: String| {
            leg.tell(&["fill", &url, &messages.to_string()]).await?;
            let mut connection = PgConnection::connect(&url).await?;
            let vacuum = sqlx::raw_sql("vacuum (analyze)");
            vacuum.execute(&mut connection).await?;
            connection.close().await?;
            Ok::<_, Error>(())
        };
        Ok(self.server.database_from(&name, fill).await?)
    }
}
