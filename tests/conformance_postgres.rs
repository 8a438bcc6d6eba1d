//! `PgStorage` keeps every rule of the conformance suite, on tokio and a Postgres of its own.

use std::sync::Arc;
use std::time::Duration;

use outbox::postgres::{PgOutbox, PgStorage};
use outbox::tokio::TokioRuntime;
use outbox::{Cancel, MessageId, Runtime, Storage};
use outbox_testkit::conformance::{DeadLetterState, MessageState, Subject};
use outbox_testkit::postgres::{Server, TestDatabase};
use sqlx::{Connection, PgConnection, Row};

outbox_testkit::conformance_suite!(PgSubject::new().await, block_on = block_on);

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be started")
        .block_on(future)
}

struct PgSubject {
    database: TestDatabase,
    storage: PgStorage,
}

impl PgSubject {
    async fn new() -> Self {
        let database = Server::shared()
            .database_from("outbox", async |url| {
                PgStorage::connect(&url).await?.migrate().await
            })
            .await
            .expect("a database can be made");
        let storage = PgStorage::connect(&database.url())
            .await
            .expect("it can be reached");
        Self { database, storage }
    }

    async fn connection(&self) -> PgConnection {
        self.database.connect().await.expect("it can be reached")
    }
}

#[async_trait::async_trait]
impl Subject for PgSubject {
    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.storage.clone())
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
        let sql = "select message_id, reason, payload, last_error from outbox.dead_letter";
        let mut connection = self.connection().await;
        let rows = sqlx::query(sql).fetch_all(&mut connection).await;
        rows.expect("the schema is there")
            .into_iter()
            .map(|row| DeadLetterState {
                id: MessageId(row.get("message_id")),
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
}
