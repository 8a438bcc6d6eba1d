//! The limit on SQLite: the same work by hand, over the same driver, on our table and its indexes.

use std::time::Instant;

use serde_json::json;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};
use uuid::Uuid;

use super::{Commits, connect, filled, left};
use crate::Error;
use crate::bare::{BATCH, Leased, handle};
use crate::round::Round;
use crate::server::{KIND, LEASE_TTL, QUEUE};

/// Messages of one insert. More of them are no faster.
const INSERT: usize = 500;

/// Leases up to `limit` messages.
pub(crate) async fn claim(
    connection: &mut SqliteConnection,
    token: Uuid,
    limit: i64,
) -> Result<Vec<Leased>, Error> {
    let sql = "update outbox_message
        set acquired_token = $1, acquired_at = cast(unixepoch('subsec') * 1000 as integer),
            lease_expires_at = cast(unixepoch('subsec') * 1000 as integer) + $2,
            attempts = attempts + 1, deliveries = deliveries + 1
        where id in (
            select id from outbox_message
            where acquired_token is null and queue = $3 and priority = 0
              and next_attempt_at <= cast(unixepoch('subsec') * 1000 as integer)
            order by next_attempt_at, id
            limit $4
        )
        returning id, kind, payload, attempts, max_attempts";
    let rows = sqlx::query(sql)
        .bind(token)
        .bind(i64::try_from(LEASE_TTL.as_millis())?)
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
    connection: &mut SqliteConnection,
    token: Uuid,
    leased: &[Leased],
) -> Result<u64, Error> {
    // "is" keeps the planner to the ids.
    let sql = "delete from outbox_message
        where id in (select value from json_each($1)) and acquired_token is $2";
    let ids: Vec<i64> = leased.iter().map(|message| message.id).collect();
    let done = sqlx::query(sql)
        .bind(json!(ids).to_string())
        .bind(token)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// Takes a full queue down on one connection, from the first claim to the last settle.
pub(crate) async fn drain(messages: usize) -> Result<Round, Error> {
    let file = filled(messages).await?;
    let mut connection = connect(&file, Commits::Relaxed).await?;
    let mut settled = 0;
    let started = Instant::now();
    while settled < messages {
        let token = Uuid::new_v4();
        let leased = claim(&mut connection, token, BATCH).await?;
        if leased.is_empty() {
            break;
        }
        for message in &leased {
            handle(message);
        }
        settled += usize::try_from(settle(&mut connection, token, &leased).await?)?;
    }
    let elapsed = started.elapsed().as_secs_f64();
    if settled != messages || left(&file).await? != 0 {
        return Err(format!("{settled} of {messages} were settled").into());
    }
    Ok(Round {
        rate: settled as f64 / elapsed,
        messages: settled,
        ..Round::default()
    })
}

/// Writes one message in a transaction of its own.
pub(crate) async fn insert(
    connection: &mut SqliteConnection,
    payload: Vec<u8>,
) -> Result<i64, Error> {
    let sql = "insert into outbox_message (queue, kind, payload, content_type)
         values ($1, $2, $3, 'application/octet-stream') returning id";
    let row = sqlx::query(sql)
        .bind(QUEUE)
        .bind(KIND)
        .bind(payload)
        .fetch_one(connection)
        .await?;
    Ok(row.try_get("id")?)
}

/// Writes many messages, in statements of a few hundred.
pub(crate) async fn insert_many(
    connection: &mut SqliteConnection,
    payloads: Vec<Vec<u8>>,
) -> Result<u64, Error> {
    let mut written = 0;
    let mut payloads = payloads.into_iter().peekable();
    while payloads.peek().is_some() {
        let mut insert = QueryBuilder::<Sqlite>::new(
            "insert into outbox_message (queue, kind, content_type, payload) ",
        );
        insert.push_values(payloads.by_ref().take(INSERT), |mut new, payload| {
            new.push_bind(QUEUE)
                .push_bind(KIND)
                .push("'application/octet-stream'")
                .push_bind(payload);
        });
        insert.push(" returning id");
        written += insert.build().fetch_all(&mut *connection).await?.len() as u64;
    }
    Ok(written)
}
