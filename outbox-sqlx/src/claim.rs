//! Claims: pending messages, expired leases, and what a lost reply leased.

use std::time::Duration;

use outbox_core::{
    Claim, ClaimRequest, Error, MAX_LEASE_LOSSES, MessageId, PRIORITIES, QueueLease, Source,
};
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;

use crate::codec::interval;
use crate::error::storage_error;
use crate::lane::{Failed, Repeat};
use crate::rows::{Leased, Names, dead_lettered, leased};
use crate::storage::Inner;

/// Claims as the request says.
pub(crate) async fn claim(inner: &Inner, request: &ClaimRequest) -> Result<Claim, Error> {
    let arrays = Arrays::new(&request.queues);
    if request.resume {
        let found = recover(inner, request, &arrays).await?;
        if !found.messages.is_empty() {
            return Ok(found);
        }
    }
    let mut claim = match claim_new(inner, request, &arrays).await {
        Ok(claim) => claim,
        Err(failed) if failed.unknown => {
            // The same question a worker would ask, one failed call earlier.
            let found = recover(inner, request, &arrays).await?;
            if !found.messages.is_empty() {
                return Ok(found);
            }
            claim_new(inner, request, &arrays).await?
        }
        Err(failed) => return Err(failed.into()),
    };
    // Not after messages: their handlers would wait for it.
    if claim.messages.is_empty() {
        fill_next_due(inner, &arrays, &mut claim).await?;
    }
    Ok(claim)
}

/// The queues of a request as parallel arrays: once each, and once for each priority.
struct Arrays {
    queues: Vec<String>,
    lease_ttls: Vec<PgInterval>,
    level_queues: Vec<String>,
    level_priorities: Vec<i16>,
    level_ttls: Vec<PgInterval>,
}

impl Arrays {
    fn new(queues: &[QueueLease]) -> Self {
        let levels = || {
            queues
                .iter()
                .flat_map(|lease| PRIORITIES.map(move |priority| (lease, priority)))
        };
        Self {
            queues: queues.iter().map(|lease| lease.queue.to_string()).collect(),
            lease_ttls: queues
                .iter()
                .map(|lease| interval(lease.lease_ttl))
                .collect(),
            level_queues: levels().map(|(lease, _)| lease.queue.to_string()).collect(),
            level_priorities: levels().map(|(_, priority)| priority).collect(),
            level_ttls: levels()
                .map(|(lease, _)| interval(lease.lease_ttl))
                .collect(),
        }
    }
}

async fn claim_new(
    inner: &Inner,
    request: &ClaimRequest,
    arrays: &Arrays,
) -> Result<Claim, Failed> {
    let limit = i64::try_from(request.limit).unwrap_or(i64::MAX);
    let token = request.token.as_uuid();
    let statements = &inner.statements;
    let answer = match request.source {
        Source::Expired => {
            let losses = i16::try_from(MAX_LEASE_LOSSES).unwrap_or(i16::MAX);
            inner
                .control
                .fetch("claim", Repeat::Ask, || {
                    sqlx::query(statements.claim_expired.clone())
                        .bind(token)
                        .bind(&arrays.queues)
                        .bind(&arrays.lease_ttls)
                        .bind(limit)
                        .bind(losses)
                })
                .await?
        }
        // Pending, and any source of a newer core, for which pending is the safe reading.
        _ => {
            inner
                .control
                .fetch("claim", Repeat::Ask, || {
                    sqlx::query(statements.claim_pending.clone())
                        .bind(token)
                        .bind(&arrays.level_queues)
                        .bind(&arrays.level_priorities)
                        .bind(&arrays.level_ttls)
                        .bind(limit)
                })
                .await?
        }
    };
    read(request, &answer.rows).map_err(|error| storage_error("claim", error).into())
}

async fn recover(inner: &Inner, request: &ClaimRequest, arrays: &Arrays) -> Result<Claim, Error> {
    let answer = inner
        .control
        .fetch("claim", Repeat::Harmless, || {
            sqlx::query(inner.statements.recover.clone())
                .bind(request.token.as_uuid())
                .bind(&arrays.queues)
                .bind(&arrays.lease_ttls)
        })
        .await?;
    read(request, &answer.rows).map_err(|error| storage_error("claim", error))
}

fn read(request: &ClaimRequest, rows: &[PgRow]) -> Result<Claim, sqlx::Error> {
    let mut names = Names::of_queues(&request.queues);
    let mut messages = Vec::with_capacity(rows.len());
    let mut dead = Vec::new();
    for row in rows {
        // Only the claim of expired leases has the column.
        if request.source == Source::Expired
            && row.try_get_raw("reason").is_ok()
            && let Some(letter) = dead_lettered(row, &mut names)?
        {
            dead.push(letter);
            continue;
        }
        messages.push(leased(row, request.token, &mut names)?);
    }
    // "returning" promises no order.
    match request.source {
        Source::Expired => messages.sort_by_key(|message| (message.due_at, message.claimed.id)),
        _ => messages.sort_by_cached_key(|message| start_order(request, message)),
    }
    let mut claim = Claim::new(messages.into_iter().map(|leased| leased.claimed).collect());
    claim.dead = dead;
    Ok(claim)
}

fn start_order(request: &ClaimRequest, leased: &Leased) -> (usize, i16, i64, MessageId) {
    let queue = request
        .queues
        .iter()
        .position(|served| served.queue == leased.claimed.queue);
    (
        queue.unwrap_or(usize::MAX),
        leased.priority,
        leased.due_at.0,
        leased.claimed.id,
    )
}

async fn fill_next_due(inner: &Inner, arrays: &Arrays, claim: &mut Claim) -> Result<(), Error> {
    let answer = inner
        .control
        .fetch("claim", Repeat::Harmless, || {
            sqlx::query(inner.statements.next_due.clone())
                .bind(&arrays.level_queues)
                .bind(&arrays.level_priorities)
                .bind(&arrays.queues)
        })
        .await;
    let rows = match answer {
        Ok(answer) => answer.rows,
        // The messages are leased: losing them for want of a hint would be worse than polling.
        Err(_) if !claim.messages.is_empty() || !claim.dead.is_empty() => return Ok(()),
        Err(failed) => return Err(failed.into()),
    };
    let Some(row) = rows.first() else {
        return Ok(());
    };
    let wait = |column: &str| -> Result<Option<Duration>, Error> {
        let micros: Option<i64> = row
            .try_get(column)
            .map_err(|error| storage_error("claim", error))?;
        Ok(micros.map(|micros| Duration::from_micros(u64::try_from(micros).unwrap_or(0))))
    };
    claim.next_due = wait("due_in")?;
    claim.next_expiry = wait("expires_in")?;
    Ok(())
}
