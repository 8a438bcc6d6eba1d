//! A SQLite file under test, and hooks that move its time by editing rows.

use std::sync::Arc;
use std::time::Duration;

use super::headers;
use outbox::sqlite::{SqliteOutbox, SqliteStorage};
use outbox::tokio::TokioRuntime;
use outbox::{Cancel, Draft, MessageId, Runtime, Storage};
use outbox_testkit::conformance::{DeadLetterState, MessageState, Subject};
use outbox_testkit::sqlite::TestFile;
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

/// A file with the outbox's tables, which ends with it.
pub(crate) struct SqliteSubject {
    file: TestFile,
}

impl SqliteSubject {
    pub(crate) async fn new() -> Self {
        let file = TestFile::new().expect("there is a place for temporary files");
        let storage = SqliteStorage::connect(&file.url()).await;
        let migrated = storage.expect("the file is made").migrate().await;
        migrated.expect("the tables are made");
        Self { file }
    }

    async fn connection(&self) -> SqliteConnection {
        self.file.connect().await.expect("the file can be opened")
    }

    async fn execute(&self, sql: &str) {
        self.file.execute(sql).await.expect("the schema is there");
    }
}

/// Milliseconds since the Unix epoch, as the storage's own clock counts.
const NOW: &str = "cast(round(unixepoch('subsec') * 1000) as integer)";

#[async_trait::async_trait]
impl Subject for SqliteSubject {
    /// Each has connections of its own: calls on clones of one would wait for each other, and no
    /// race could be lost.
    fn storage(&self) -> Arc<dyn Storage> {
        let storage = SqliteStorage::options().prepare(self.file.options());
        Arc::new(storage.expect("the tables have their default names"))
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(TokioRuntime::current())
    }

    async fn expire_leases(&self) {
        let sql = format!(
            "update outbox_message set lease_expires_at = lease_expires_at - (
                 select max(lease_expires_at) - {NOW} from outbox_message)
             where acquired_token is not null"
        );
        self.execute(&sql).await;
    }

    async fn make_due(&self) {
        let sql = "update outbox_message set next_attempt_at = min(next_attempt_at, {NOW})";
        self.execute(&sql.replace("{NOW}", NOW)).await;
    }

    async fn state(&self, id: MessageId) -> Option<MessageState> {
        let sql = format!(
            "select attempts, lease_losses, deliveries, last_error,
                 lease_expires_at - {NOW} as lease_left, next_attempt_at - {NOW} as due_in
             from outbox_message where id = $1"
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(id.0)
            .fetch_optional(&mut self.connection().await)
            .await
            .expect("the schema is there")?;
        let millis = |millis: i64| Duration::from_millis(millis.max(0).unsigned_abs());
        Some(MessageState {
            attempts: row.get("attempts"),
            lease_losses: row.get("lease_losses"),
            deliveries: row.get("deliveries"),
            lease_left: row.get::<Option<i64>, _>("lease_left").map(millis),
            due_in: millis(row.get("due_in")),
            last_error: row.get("last_error"),
        })
    }

    async fn dead_letters(&self) -> Vec<DeadLetterState> {
        let sql = "select message_id, queue, kind, headers, key, group_key, tag, attempts, reason, payload, last_error
            from outbox_dead_letter";
        let rows = sqlx::query(sql)
            .fetch_all(&mut self.connection().await)
            .await;
        let letter = |row: &sqlx::sqlite::SqliteRow| DeadLetterState {
            id: MessageId(row.get("message_id")),
            queue: row.get("queue"),
            kind: row.get("kind"),
            headers: headers(row.get("headers")),
            key: row.get("key"),
            group: row.get("group_key"),
            tag: row.get("tag"),
            attempts: u16::try_from(row.get::<i16, _>("attempts")).expect("it is none below zero"),
            reason: row.get("reason"),
            payload: row.get("payload"),
            error: row.get("last_error"),
        };
        rows.expect("the schema is there")
            .iter()
            .map(letter)
            .collect()
    }

    async fn cancel(&self, id: MessageId) -> Cancel {
        let mut connection = self.connection().await;
        let cancelled = SqliteOutbox::new().cancel(&mut connection, id).await;
        cancelled.expect("the schema is there")
    }

    async fn enqueue_in_transaction(&self, messages: Vec<Draft>, commit: bool) {
        let mut connection = self.connection().await;
        let begun = connection.begin_with("begin immediate").await;
        let mut transaction = begun.expect("it can begin");
        let written = SqliteOutbox::new()
            .enqueue_many(&mut transaction, messages)
            .await;
        written.expect("the tables are there");
        let ended = match commit {
            true => transaction.commit().await,
            false => transaction.rollback().await,
        };
        ended.expect("it can end");
    }
}
