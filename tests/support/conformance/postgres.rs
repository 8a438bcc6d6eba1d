//! A Postgres under test: a database of its own, and hooks that move its time by editing rows.

use std::sync::Arc;
use std::time::Duration;

use super::headers;
use outbox::postgres::{PgOutbox, PgStorage};
use outbox::tokio::TokioRuntime;
use outbox::{Cancel, Draft, MessageId, Runtime, Storage};
use outbox_testkit::conformance::{DeadLetterState, MessageState, Subject};
use outbox_testkit::postgres::{Server, TestDatabase};
use sqlx::{Connection, PgConnection, Row};

/// A database with the outbox's schema, which ends with it.
pub(crate) struct PgSubject {
    database: TestDatabase,
}

impl PgSubject {
    pub(crate) async fn new() -> Self {
        let database = Server::shared()
            .database_from("outbox", async |url| {
                PgStorage::connect(&url).await?.migrate().await
            })
            .await
            .expect("a database can be made");
        Self { database }
    }

    async fn connection(&self) -> PgConnection {
        self.database.connect().await.expect("it can be reached")
    }
}

#[async_trait::async_trait]
impl Subject for PgSubject {
    /// Each has connections of its own: calls on clones of one would wait for each other, and no
    /// race could be lost.
    fn storage(&self) -> Arc<dyn Storage> {
        let options = self
            .database
            .url()
            .parse()
            .expect("the fixture gives a URL");
        let storage = PgStorage::options().prepare(options);
        Arc::new(storage.expect("the schema has its default name"))
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(TokioRuntime::current())
    }

    async fn expire_leases(&self) {
        let sql = "update outbox.message set lease_expires_at = lease_expires_at - (
                       select max(lease_expires_at) - clock_timestamp() from outbox.message
                       where acquired_token is not null)
                   where acquired_token is not null";
        self.database
            .execute(sql)
            .await
            .expect("the schema is there");
    }

    async fn make_due(&self) {
        let made = self.database.make_due("outbox").await;
        made.expect("the schema is there");
    }

    async fn state(&self, id: MessageId) -> Option<MessageState> {
        let sql = "select attempts, lease_losses, deliveries, last_error,
                       extract(epoch from lease_expires_at - clock_timestamp())::float8 as lease_left,
                       extract(epoch from next_attempt_at - clock_timestamp())::float8 as due_in
                   from outbox.message where id = $1";
        let mut connection = self.connection().await;
        let row = sqlx::query(sql)
            .bind(id.0)
            .fetch_optional(&mut connection)
            .await
            .expect("the schema is there")?;
        let seconds = |seconds: f64| Duration::from_secs_f64(seconds.max(0.0));
        let count = |name| u16::try_from(row.get::<i16, _>(name)).expect("counts are not negative");
        Some(MessageState {
            attempts: count("attempts"),
            lease_losses: count("lease_losses"),
            deliveries: u32::try_from(row.get::<i32, _>("deliveries")).expect("not negative"),
            lease_left: row.get::<Option<f64>, _>("lease_left").map(seconds),
            due_in: seconds(row.get("due_in")),
            last_error: row.get("last_error"),
        })
    }

    async fn dead_letters(&self) -> Vec<DeadLetterState> {
        let sql = "select message_id, queue, kind, headers::text as headers, key, group_key, tag, attempts, reason, payload, last_error
            from outbox.dead_letter";
        let mut connection = self.connection().await;
        let rows = sqlx::query(sql).fetch_all(&mut connection).await;
        rows.expect("the schema is there")
            .into_iter()
            .map(|row| DeadLetterState {
                id: MessageId(row.get("message_id")),
                queue: row.get("queue"),
                kind: row.get("kind"),
                headers: headers(row.get("headers")),
                key: row.get("key"),
                group: row.get("group_key"),
                tag: row.get("tag"),
                attempts: u16::try_from(row.get::<i16, _>("attempts"))
                    .expect("it is none below zero"),
                reason: row.get("reason"),
                payload: row.get("payload"),
                error: row.get("last_error"),
            })
            .collect()
    }

    async fn cancel(&self, id: MessageId) -> Cancel {
        let mut connection = self.connection().await;
        let mut transaction = connection.begin().await.expect("it can begin");
        let cancelled = PgOutbox::new().cancel(&mut transaction, id).await;
        transaction.commit().await.expect("it can commit");
        cancelled.expect("the schema is there")
    }

    async fn enqueue_in_transaction(&self, messages: Vec<Draft>, commit: bool) {
        let mut connection = self.connection().await;
        let mut transaction = connection.begin().await.expect("it can begin");
        let written = PgOutbox::new()
            .enqueue_many(&mut transaction, messages)
            .await;
        written.expect("the schema is there");
        let ended = match commit {
            true => transaction.commit().await,
            false => transaction.rollback().await,
        };
        ended.expect("it can end");
    }
}
