//! The limit: the same work by hand, over the same driver, on our table and its indexes. What it
//! leaves out is what a framework is for: handlers, heartbeat, wake-ups, outcomes.

use std::time::Duration;

use sqlx::postgres::types::PgInterval;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::Error;
use crate::server::{KIND, LEASE_TTL, QUEUE};

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
    token: Uuid,
    limit: i64,
) -> Result<Vec<Leased>, Error> {
    let sql = "
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
        .bind(QUEUE)
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

/// Deletes messages that the token still holds, and returns how many.
pub(crate) async fn settle(
    connection: &mut PgConnection,
    token: Uuid,
    ids: &[i64],
) -> Result<u64, Error> {
    let sql = "delete from outbox.message where id = any ($1) and acquired_token = $2";
    let done = sqlx::query(sql)
        .bind(ids)
        .bind(token)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// Claims and settles until nothing is left, and returns how many messages were settled.
pub(crate) async fn drain(connection: &mut PgConnection) -> Result<u64, Error> {
    let mut settled = 0;
    loop {
        let token = Uuid::new_v4();
        let leased = claim(connection, token, BATCH).await?;
        if leased.is_empty() {
            return Ok(settled);
        }
        for message in &leased {
            handle(message);
        }
        let ids: Vec<i64> = leased.iter().map(|message| message.id).collect();
        settled += settle(connection, token, &ids).await?;
    }
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

/// Reads what a handler would, so that the compiler keeps it.
fn handle(message: &Leased) {
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
