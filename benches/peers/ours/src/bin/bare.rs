//! The leg of the bare statements: the least that claims under a lease and settles by its token, on
//! our table, over the same driver. It is the limit that queues are compared with, and is no queue.

use std::process::ExitCode;
use std::str::FromStr as _;

use leg::{Description, Error, Payload, Peer, Setting, Work};
use outbox::postgres::PgStorage;
use sqlx::postgres::{PgConnectOptions, PgListener};
use sqlx::{ConnectOptions as _, PgConnection, Row as _};
use uuid::Uuid;

const ONE: &str = "100 x 1";
const TWO: &str = "500 x 2";
const LISTEN: &str = "listen";

struct Bare(PgConnection);

impl Peer for Bare {
    fn description() -> Description {
        Description {
            package: None,
            version: Some("hand-written".to_owned()),
            fenced: "yes: a random token for each claim".to_owned(),
            left: "select count(*) from outbox.message".to_owned(),
            settings: vec![
                Setting::new(
                    ONE,
                    "claims of 100, 1 connection; insert, and unnest; nobody is notified",
                )
                .no_latency(),
                Setting::new(TWO, "claims of 500, 2 connections")
                    .one_process()
                    .no_enqueue()
                    .no_latency(),
                Setting::new(
                    LISTEN,
                    "insert and notify in one statement; a listener that claims one",
                )
                .only_latency(),
            ],
        }
    }

    async fn migrate(url: &str) -> Result<(), Error> {
        Ok(PgStorage::connect(url).await?.migrate().await?)
    }

    async fn worker(url: &str, setting: &str) -> Result<Work, Error> {
        if setting == LISTEN {
            return listen(url).await;
        }
        let (batch, connections) = match setting {
            TWO => (500, 2),
            _ => (100, 1),
        };
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(connect(url).await?);
        }
        Ok(Box::pin(async move {
            let mut running = tokio::task::JoinSet::new();
            for mut connection in open {
                running.spawn(async move {
                    while claim_and_settle(&mut connection, batch).await? > 0 {}
                    Ok::<_, Error>(())
                });
            }
            while let Some(ended) = running.join_next().await {
                ended??;
            }
            // A queue's worker would go on.
            std::future::pending().await
        }))
    }

    async fn producer(url: &str, setting: &str) -> Result<Self, Error> {
        let mut connection = connect(url).await?;
        if setting == LISTEN {
            // So that the one insert of this leg notifies in its own statement.
            sqlx::raw_sql(
                "create function bench_notify() returns trigger language plpgsql
                 as 'begin perform pg_notify(''bench'', ''''); return null; end';
                 create trigger bench_notify after insert on outbox.message
                 for each statement execute function bench_notify()",
            )
            .execute(&mut connection)
            .await?;
        }
        Ok(Self(connection))
    }

    async fn one(&mut self, payload: Payload) -> Result<(), Error> {
        let sql = "insert into outbox.message (queue, kind, payload, content_type)
             values ('bench', 'noop', $1, 'application/json') returning id";
        sqlx::query(sql)
            .bind(bytes(&payload))
            .fetch_one(&mut self.0)
            .await?;
        Ok(())
    }

    async fn many(&mut self, payloads: Vec<Payload>) -> Result<(), Error> {
        let payloads: Vec<Vec<u8>> = payloads.iter().map(bytes).collect();
        let sql = "insert into outbox.message (queue, kind, payload, content_type)
             select 'bench', 'noop', payload, 'application/json' from unnest($1::bytea[]) as new (payload)
             returning id";
        sqlx::query(sql)
            .bind(payloads)
            .fetch_all(&mut self.0)
            .await?;
        Ok(())
    }
}

fn bytes(payload: &Payload) -> Vec<u8> {
    format!(r#"{{"id":{},"text":"{}"}}"#, payload.id, payload.text).into_bytes()
}

/// Keeps the planner to the indexes, as on the connections of our storage.
async fn connect(url: &str) -> Result<PgConnection, Error> {
    let options = PgConnectOptions::from_str(url)?.options([
        ("enable_seqscan", "off"),
        ("enable_bitmapscan", "off"),
        ("jit", "off"),
    ]);
    Ok(options.connect().await?)
}

async fn listen(url: &str) -> Result<Work, Error> {
    let mut listener = PgListener::connect(url).await?;
    listener.listen("bench").await?;
    let mut connection = connect(url).await?;
    Ok(Box::pin(async move {
        loop {
            listener.recv().await?;
            claim_and_settle(&mut connection, 1).await?;
        }
    }))
}

/// Leases, handles and settles up to `limit` messages, and returns how many.
async fn claim_and_settle(connection: &mut PgConnection, limit: i64) -> Result<usize, Error> {
    let token = Uuid::new_v4();
    let claim = "update outbox.message
        set acquired_token = $1, acquired_at = now(), lease_expires_at = now() + interval '60 s',
            attempts = attempts + 1, deliveries = deliveries + 1
        where ctid = any (array(
            select ctid from outbox.message
            where acquired_token is null and queue = 'bench' and priority = 0
              and next_attempt_at <= now()
            order by next_attempt_at, id
            limit $2
            for update skip locked
        ))
        returning id, kind, payload, attempts, max_attempts";
    let rows = sqlx::query(claim)
        .bind(token)
        .bind(limit)
        .fetch_all(&mut *connection)
        .await?;
    let mut ids: Vec<i64> = Vec::with_capacity(rows.len());
    for row in &rows {
        let payload: &[u8] = row.try_get("payload")?;
        std::hint::black_box(payload);
        leg::handled();
        ids.push(row.try_get("id")?);
    }
    let settle = "delete from outbox.message where id = any ($1) and acquired_token = $2";
    sqlx::query(settle)
        .bind(ids)
        .bind(token)
        .execute(connection)
        .await?;
    Ok(rows.len())
}

fn main() -> ExitCode {
    leg::run::<Bare>()
}
