//! Claims: pending messages, expired leases, and what a lost reply leased.

use std::time::Duration;

use outbox_core::{Claim, ClaimRequest, Error, MAX_LEASE_LOSSES, PRIORITIES, QueueLease, Source};
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;

use crate::codec::interval;
use crate::error::storage_error;
use crate::lane::{Failed, Repeat};
use crate::rows::{Names, claim_of, dead_lettered, leased, sort_by_start};
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
    max_attempts: Vec<Option<i16>>,
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
            max_attempts: queues
                .iter()
                .map(|lease| lease.max_attempts)
                .map(|most| most.map(|most| i16::try_from(most).unwrap_or(i16::MAX)))
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
    let limit = limit(request);
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
                        .bind(&arrays.max_attempts)
                })
                .await?
        }
        Source::Pending => {
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

fn limit(request: &ClaimRequest) -> i64 {
    i64::try_from(request.limit).unwrap_or(i64::MAX)
}

async fn recover(inner: &Inner, request: &ClaimRequest, arrays: &Arrays) -> Result<Claim, Error> {
    let answer = inner
        .control
        .fetch("claim", Repeat::Harmless, || {
            sqlx::query(inner.statements.recover.clone())
                .bind(request.token.as_uuid())
                .bind(&arrays.queues)
                .bind(&arrays.lease_ttls)
                .bind(limit(request))
        })
        .await?;
    // In their place among pending messages, whatever the claim was: the lost reply's own order,
    // that of the ends of expired leases, is overwritten.
    let mut names = Names::of_queues(&request.queues);
    let messages = answer
        .rows
        .iter()
        .map(|row| leased(row, request.token, &mut names));
    let messages = messages.collect::<Result<Vec<_>, _>>();
    let mut messages = messages.map_err(|error| storage_error("claim", error))?;
    sort_by_start(request, &mut messages);
    Ok(claim_of(messages))
}

fn read(request: &ClaimRequest, rows: &[PgRow]) -> Result<Claim, sqlx::Error> {
    let mut names = Names::of_queues(&request.queues);
    let mut messages = Vec::with_capacity(rows.len());
    let mut dead = Vec::new();
    for row in rows {
        // Only the claim of expired leases has the column.
        if request.source == Source::Expired
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
        Source::Pending => sort_by_start(request, &mut messages),
    }
    let mut claim = claim_of(messages);
    claim.dead = dead;
    Ok(claim)
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
