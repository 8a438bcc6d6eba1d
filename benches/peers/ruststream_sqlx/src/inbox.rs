//! What both legs of ruststream-sqlx's inbox share: their connections, their insert, and what a batch
//! of messages is answered with. Their tables and settings differ.

use leg::{Error, Payload};
use ruststream_sqlx::prelude::*;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

/// Connections for a worker or a producer.
pub async fn pool(url: &str, connections: u32) -> Result<PgPool, Error> {
    let options = PgPoolOptions::new().max_connections(connections);
    Ok(options.connect(url).await?)
}

/// Writes many messages in one statement of ours, as the package has none.
pub async fn insert_many(pool: &PgPool, payloads: &[Payload]) -> Result<(), Error> {
    let payloads = payloads
        .iter()
        .map(serde_json::to_vec)
        .collect::<Result<Vec<_>, _>>()?;
    let sql = "insert into bench_jobs (name, payload)
         select 'bench', payload from unnest($1::bytea[]) as new (payload)";
    sqlx::query(sql).bind(payloads).execute(pool).await?;
    Ok(())
}

/// Handles each message of a batch.
#[must_use]
pub fn handled(payloads: &[Payload]) -> Vec<HandlerOutcome> {
    let mut outcomes = Vec::with_capacity(payloads.len());
    for _ in payloads {
        leg::handled();
        outcomes.push(HandlerOutcome::ack());
    }
    outcomes
}
