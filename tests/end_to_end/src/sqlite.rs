//! SQLite, in a file of the fixture's.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox::sqlite::{SqliteOutbox, SqliteStorage};
use outbox::{Draft, Storage};
use outbox_testkit::sqlite::TestFile;
use sqlx::Connection;

use crate::backend::{Backend, Ending, Outage};

/// A file with the tables, and nothing in them.
pub struct Sqlite(TestFile);

impl Sqlite {
    async fn count(&self, sql: &str) -> i64 {
        self.0.count(sql).await.expect("the tables are there")
    }
}

#[async_trait]
impl Backend for Sqlite {
    async fn new() -> Self {
        let file = TestFile::new().expect("there is a place for temporary files");
        let storage = SqliteStorage::connect(&file.url()).await;
        let migrated = storage.expect("the file is made").migrate().await;
        migrated.expect("the tables are made");
        Self(file)
    }

    async fn storage(&self) -> Arc<dyn Storage> {
        let storage = SqliteStorage::connect(&self.0.url()).await;
        Arc::new(storage.expect("the file can be opened"))
    }

    async fn enqueue(&self, drafts: Vec<Draft>, ending: Ending) {
        let mut connection = self.0.connect().await.expect("the file can be opened");
        let begun = connection.begin_with("begin immediate").await;
        let mut tx = begun.expect("it begins");
        let written = SqliteOutbox::new().enqueue_many(&mut tx, drafts).await;
        written.expect("they are written");
        match ending {
            Ending::Commit => tx.commit().await.expect("it commits"),
            Ending::Rollback => tx.rollback().await.expect("it rolls back"),
        }
    }

    async fn messages(&self) -> i64 {
        self.count("select count(*) from outbox_message").await
    }

    async fn leased(&self) -> i64 {
        self.count("select count(acquired_token) from outbox_message")
            .await
    }

    async fn dead_letters(&self) -> Vec<String> {
        let mut connection = self.0.connect().await.expect("the file can be opened");
        sqlx::query_scalar("select reason from outbox_dead_letter order by message_id")
            .fetch_all(&mut connection)
            .await
            .expect("the tables are there")
    }

    /// A worker gives itself a hint when it begins to look for commits, and misses none after.
    async fn has_listener(&self) -> bool {
        true
    }

    async fn is_renewed(&self, lease_ttl: Duration) -> bool {
        let now = "cast(round(unixepoch('subsec') * 1000) as integer)";
        let renewed = format!(
            "select count(*) from outbox_message
             where acquired_at + {} < {now} and lease_expires_at > {now}",
            lease_ttl.as_millis()
        );
        self.count(&renewed).await > 0
    }

    /// A transaction that may write, and ends with its connection.
    async fn outage(&self) -> Outage {
        let mut connection = self.0.connect().await.expect("the file can be opened");
        let begun = sqlx::raw_sql("begin immediate").execute(&mut connection);
        begun.await.expect("it begins");
        Outage::lasting(connection)
    }
}
