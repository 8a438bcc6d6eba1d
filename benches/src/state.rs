//! What is in an outbox before a round begins.

use outbox::postgres::PgStorage;
use outbox_testkit::postgres::TestDatabase;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::Error;
use crate::server::{Bench, KIND, PAYLOAD_BYTES, QUEUE};

/// The queues of a workload with many; the first is that of all others.
pub(crate) const QUEUES: [&str; 20] = [
    QUEUE, "bench-1", "bench-2", "bench-3", "bench-4", "bench-5", "bench-6", "bench-7", "bench-8",
    "bench-9", "bench-10", "bench-11", "bench-12", "bench-13", "bench-14", "bench-15", "bench-16",
    "bench-17", "bench-18", "bench-19",
];

/// How many messages of what sort there are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct State {
    /// In the one queue.
    pub(crate) due: usize,
    /// In [`QUEUES`]: half of them in the first, the others evenly in the rest.
    pub(crate) due_in_queues: usize,
    /// Due from tomorrow on.
    pub(crate) future: usize,
    /// By somebody else, for an hour.
    pub(crate) leased: usize,
    /// Dead letters.
    pub(crate) dead: usize,
}

impl State {
    pub(crate) fn due(messages: usize) -> Self {
        Self {
            due: messages,
            ..Self::default()
        }
    }

    /// Dead letters are in another table.
    pub(crate) const fn in_message_table(&self) -> usize {
        self.due + self.due_in_queues + self.future + self.leased
    }

    /// What is in the way of the due messages is older than they are.
    fn statements(&self) -> [String; 5] {
        let insert = "insert into outbox.message (queue, kind, payload, content_type";
        let same = format!(
            "'{KIND}', convert_to(repeat('x', {PAYLOAD_BYTES}), 'utf8'), 'application/octet-stream'"
        );
        let many = |count: usize| format!("from generate_series(1, {count}) as number");
        let queue = format!(
            "case number % 2 when 0 then '{QUEUE}' else 'bench-' || (number / 2 % {} + 1) end",
            QUEUES.len() - 1
        );
        [
            format!(
                "insert into outbox.dead_letter (message_id, queue, kind, payload, content_type, priority,
                     attempts, max_attempts, deliveries, lease_losses, created_at, reason)
                 select -number, '{QUEUE}', {same}, 0, 10, 10, 10, 0, now(), 'exhausted' {}",
                many(self.dead)
            ),
            format!(
                "{insert}, attempts, deliveries, acquired_token, acquired_at, lease_expires_at)
                 select '{QUEUE}', {same}, 1, 1, gen_random_uuid(), now(), now() + interval '1 hour' {}",
                many(self.leased)
            ),
            format!(
                "{insert}, next_attempt_at)
                 select '{QUEUE}', {same}, now() + interval '1 day' + number * interval '1 ms' {}",
                many(self.future)
            ),
            format!("{insert}) select '{QUEUE}', {same} {}", many(self.due)),
            format!("{insert}) select {queue}, {same} {}", many(self.due_in_queues)),
        ]
    }
}

impl Bench {
    /// A new database in this state, vacuumed and analyzed: as on a server whose autovacuum had a
    /// minute. It is a copy, so only the first one takes its time.
    pub(crate) async fn filled(&self, state: &State) -> Result<TestDatabase, Error> {
        let fill = |url: String| async move {
            PgStorage::connect(&url).await?.migrate().await?;
            let mut connection = PgConnection::connect(&url).await?;
            for statement in state.statements() {
                let statement = sqlx::raw_sql(AssertSqlSafe(statement));
                statement.execute(&mut connection).await?;
            }
            // What filling it left to write would be written during the first round.
            for statement in [
                "vacuum (analyze) outbox.message, outbox.dead_letter",
                "checkpoint",
            ] {
                sqlx::raw_sql(statement).execute(&mut connection).await?;
            }
            connection.close().await?;
            Ok::<_, Error>(())
        };
        Ok(self
            .server
            .database_from(&format!("{state:?}"), fill)
            .await?)
    }
}
