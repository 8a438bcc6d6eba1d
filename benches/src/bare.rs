//! The limit: the same work by hand, over the same driver, on our table and its indexes. What it
//! leaves out is what a framework is for: handlers, heartbeat, wake-ups, outcomes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::types::PgInterval;
use sqlx::{Connection, PgConnection, Row};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::Error;
use crate::round::Round;
use crate::server::{Bench, KIND, LEASE_TTL, QUEUE, connect};
use crate::state::State;

/// Messages of one claim.
pub(crate) const BATCH: i64 = 100;

/// What a handler is given.
pub(crate) struct Leased {
    pub(crate) id: i64,
    pub(crate) kind: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) attempts: i16,
    pub(crate) max_attempts: i16,
}

/// Leases up to `limit` messages. The fastest shape known: by ctid, with no join back to the table.
pub(crate) async fn claim(
    connection: &mut PgConnection,
    queue: &str,
    token: Uuid,
    limit: i64,
) -> Result<Vec<Leased>, Error> {
    let sql = "-- Leases due messages, by hand.
        update outbox.message
        set acquired_token = $1, acquired_at = now(), lease_expires_at = now() + $2,
            attempts = attempts + 1, deliveries = deliveries + 1
        where ctid = any (array(
            select ctid from outbox.message
            where acquired_token is null and queue = $3 and priority = 0
              and next_attempt_at <= now()
            order by next_attempt_at, id
            limit $4
            for update skip locked
        ))
        returning id, kind, payload, attempts, max_attempts";
    let rows = sqlx::query(sql)
        .bind(token)
        .bind(interval(LEASE_TTL))
        .bind(queue)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Leased {
                id: row.try_get("id")?,
                kind: row.try_get("kind")?,
                payload: row.try_get("payload")?,
                attempts: row.try_get("attempts")?,
                max_attempts: row.try_get("max_attempts")?,
            })
        })
        .collect()
}

/// How the settle finds its messages.
#[derive(Clone, Copy)]
pub(crate) enum Settle {
    /// As the planner likes: by reading all leases. The cheapest while these are few and no dead row
    /// is kept, as in a drain.
    AllLeases,
    /// By id: the comparison keeps the planner from the index of leases. Beside a producer that
    /// index fills with dead entries, and reading all of it took a hundred times as long.
    ById,
}

/// Deletes messages that the token still holds, and returns how many.
pub(crate) async fn settle(
    connection: &mut PgConnection,
    token: Uuid,
    ids: &[i64],
    by: Settle,
) -> Result<u64, Error> {
    let sql = match by {
        Settle::AllLeases => {
            "delete from outbox.message where id = any ($1) and acquired_token = $2"
        }
        Settle::ById => {
            "delete from outbox.message
             where id = any ($1) and acquired_token is not distinct from $2"
        }
    };
    let done = sqlx::query(sql)
        .bind(ids)
        .bind(token)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// Settles the first so many messages on some connections at once, from the first claim to the last
/// settle; connecting is not counted.
pub(crate) async fn round(
    bench: &Bench,
    state: &State,
    messages: usize,
    shape: Shape,
) -> Result<Round, Error> {
    let database = bench.filled(state).await?;
    let mut connections = Vec::new();
    for _ in 0..shape.connections {
        connections.push(connect(&database).await?);
    }
    let count = bench.meter.start(&database).await?;
    let settled = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut running = JoinSet::new();
    for mut connection in connections {
        let settled = Arc::clone(&settled);
        running.spawn(async move {
            drain(&mut connection, shape, &settled, messages).await?;
            Ok::<_, Error>(connection)
        });
    }
    let mut done = Vec::new();
    while let Some(connection) = running.join_next().await {
        done.push(connection??);
    }
    let elapsed = started.elapsed();
    for connection in done {
        connection.close().await?;
    }
    let cost = count.finish(&database).await?;
    let settled = settled.load(Ordering::Relaxed);
    if settled < messages {
        return Err(format!("{settled} of {messages} were settled").into());
    }
    Ok(Round {
        rate: settled as f64 / elapsed.as_secs_f64(),
        messages: settled,
        cost: Some(cost),
        ..Round::default()
    })
}

/// How the loop is run.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Served in turn.
    pub(crate) queues: &'static [&'static str],
    pub(crate) batch: i64,
    pub(crate) connections: usize,
}

/// One connection, one queue.
pub(crate) const PLAIN: Shape = Shape {
    queues: &[QUEUE],
    batch: BATCH,
    connections: 1,
};

/// Claims and settles until so many are settled by all, or nothing is left.
async fn drain(
    connection: &mut PgConnection,
    shape: Shape,
    settled: &AtomicUsize,
    messages: usize,
) -> Result<(), Error> {
    loop {
        let mut found = false;
        for queue in shape.queues {
            if settled.load(Ordering::Relaxed) >= messages {
                return Ok(());
            }
            let done = batch(connection, queue, shape.batch, Settle::AllLeases).await?;
            settled.fetch_add(done, Ordering::Relaxed);
            found |= done > 0;
        }
        if !found {
            return Ok(());
        }
    }
}

/// Claims, handles and settles one batch, and returns how many were settled.
pub(crate) async fn batch(
    connection: &mut PgConnection,
    queue: &str,
    limit: i64,
    by: Settle,
) -> Result<usize, Error> {
    let token = Uuid::new_v4();
    let leased = claim(connection, queue, token, limit).await?;
    if leased.is_empty() {
        return Ok(0);
    }
    for message in &leased {
        handle(message);
    }
    let ids: Vec<i64> = leased.iter().map(|message| message.id).collect();
    let settled = settle(connection, token, &ids, by).await?;
    Ok(usize::try_from(settled)?)
}

/// Writes one message in a transaction of its own.
pub(crate) async fn insert(connection: &mut PgConnection, payload: &[u8]) -> Result<i64, Error> {
    let sql = "insert into outbox.message (queue, kind, payload, content_type)
         values ($1, $2, $3, 'application/octet-stream') returning id";
    let row = sqlx::query(sql)
        .bind(QUEUE)
        .bind(KIND)
        .bind(payload)
        .fetch_one(connection)
        .await?;
    Ok(row.try_get("id")?)
}

/// Writes many messages in one statement.
pub(crate) async fn insert_many(
    connection: &mut PgConnection,
    payloads: &[Vec<u8>],
) -> Result<u64, Error> {
    let sql = "insert into outbox.message (queue, kind, payload, content_type)
         select $1, $2, payload, 'application/octet-stream' from unnest($3::bytea[]) as new (payload)
         returning id";
    let rows = sqlx::query(sql)
        .bind(QUEUE)
        .bind(KIND)
        .bind(payloads)
        .fetch_all(connection)
        .await?;
    Ok(rows.len() as u64)
}

/// Says that there are messages, as a producer that wakes somebody would.
pub(crate) async fn notify(connection: &mut PgConnection, channel: &str) -> Result<(), Error> {
    let sql = "select pg_notify($1, '')";
    sqlx::query(sql).bind(channel).execute(connection).await?;
    Ok(())
}

/// Reads what a handler would, so that the compiler keeps it.
pub(crate) fn handle(message: &Leased) {
    std::hint::black_box((
        &message.kind,
        &message.payload,
        message.attempts,
        message.max_attempts,
    ));
}

fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
    }
}
