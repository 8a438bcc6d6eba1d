//! Postgres, in a database of the fixture's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox::postgres::{PgOutbox, PgStorage};
use outbox::{Draft, Storage};
use outbox_testkit::postgres::{Server, TestDatabase};
use sqlx::Connection;

use crate::backend::{Backend, Ending, Outage};

/// A migrated database, and nothing in it.
pub struct Postgres(TestDatabase);

impl Postgres {
    /// The process ids of the sessions that workers have.
    pub async fn sessions(&self) -> BTreeSet<i32> {
        let mut connection = self.0.connect().await.expect("Postgres answers");
        sqlx::query_scalar(
            "select pid from pg_stat_activity
             where datname = current_database() and application_name <> 'outbox-testkit'",
        )
        .fetch_all(&mut connection)
        .await
        .expect("the role may")
        .into_iter()
        .collect()
    }

    async fn count(&self, sql: &str) -> i64 {
        let count = self.0.count(sql).await;
        count.unwrap_or_else(|error| panic!("{error:?}"))
    }
}

#[async_trait]
impl Backend for Postgres {
    async fn new() -> Self {
        let database = Server::shared()
            .database_from("outbox", async |url| {
                PgStorage::connect(&url).await?.migrate().await
            })
            .await;
        Self(database.unwrap_or_else(|error| panic!("{error:?}")))
    }

    async fn storage(&self) -> Arc<dyn Storage> {
        let storage = PgStorage::connect(&self.0.url()).await;
        Arc::new(storage.expect("Postgres answers"))
    }

    async fn enqueue(&self, drafts: Vec<Draft>, ending: Ending) {
        let mut connection = self.0.connect().await.expect("Postgres answers");
        let mut tx = connection.begin().await.expect("it begins");
        let written = PgOutbox::new().enqueue_many(&mut tx, drafts).await;
        written.expect("they are written");
        match ending {
            Ending::Commit => tx.commit().await.expect("it commits"),
            Ending::Rollback => tx.rollback().await.expect("it rolls back"),
        }
    }

    async fn messages(&self) -> i64 {
        self.count("select count(*) from outbox.message").await
    }

    async fn leased(&self) -> i64 {
        self.count("select count(acquired_token) from outbox.message")
            .await
    }

    async fn dead_letters(&self) -> Vec<String> {
        let mut connection = self.0.connect().await.expect("Postgres answers");
        sqlx::query_scalar("select reason from outbox.dead_letter order by message_id")
            .fetch_all(&mut connection)
            .await
            .expect("the schema is there")
    }

    async fn has_listener(&self) -> bool {
        let listening = "select count(*) from pg_stat_activity
            where datname = current_database() and query ilike 'listen%' and state = 'idle'";
        self.count(listening).await > 0
    }

    async fn is_renewed(&self, lease_ttl: Duration) -> bool {
        let seconds = lease_ttl.as_secs_f64();
        let renewed = format!(
            "select count(*) from outbox.message
             where acquired_at + make_interval(secs => {seconds}) < clock_timestamp()
               and lease_expires_at > clock_timestamp()"
        );
        self.count(&renewed).await > 0
    }

    async fn outage(&self) -> Outage {
        let ended = self.0.terminate_all().await;
        let ended = ended.unwrap_or_else(|error| panic!("{error:?}"));
        // One for claims and settles, one that listens; one for renewals, which may not be open.
        assert!(ended >= 2, "only {ended} sessions were there to be ended");
        Outage::over()
    }
}
