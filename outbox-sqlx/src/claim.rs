//! Claims: pending messages, expired leases, and what a lost reply leased.

use std::time::{Duration, Instant};

use outbox_core::{
    Claim, ClaimRequest, Error, MAX_LEASE_LOSSES, MIN_LEASE_TTL, PRIORITIES, QueueLease, Source,
};
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;

use crate::codec::interval;
use crate::error::storage_error;
use crate::lane::{Failed, Repeat};
use crate::neighbours;
use crate::rows::{Leased, Names, claim_of, dead_lettered, leased, sort_by_start};
use crate::storage::Inner;
use crate::timestamp::Timestamp;
use crate::watermark::{Mark, Reach};

/// Runs each statement about nothing: no queue, or no message.
pub(crate) async fn check(inner: &Inner) -> Result<(), Error> {
    for source in [Source::Pending, Source::Expired] {
        let request = ClaimRequest::new(Vec::new(), 1, source);
        claim(inner, &request.resumed()).await?;
    }
    let nowhere = QueueLease::new("", MIN_LEASE_TTL);
    let request = ClaimRequest::new(Vec::new(), 0, Source::Pending);
    claim_clear(inner, &request, &nowhere).await?;
    Ok(())
}

/// Claims as the request says.
pub(crate) async fn claim(inner: &Inner, request: &ClaimRequest) -> Result<Claim, Error> {
    let arrays = Arrays::new(&request.queues);
    if request.resume {
        let found = recover(inner, request, &arrays).await?;
        if !found.messages.is_empty() {
            return Ok(found);
        }
    }
    let mut answer = claim_once(inner, request, &arrays).await?;
    if answer.claim.messages.is_empty() && answer.reach == Reach::NotYet {
        // What is before the marks is all that may be left.
        answer = claim_once(inner, request, &arrays).await?;
    }
    let mut claim = answer.claim;
    inner.house.count(claim.messages.len() + claim.dead.len());
    if claim.messages.len() >= request.limit && request.source == Source::Pending {
        neighbours::look(inner, request).await;
    }
    // Not after messages: their handlers would wait for it.
    if claim.messages.is_empty() {
        fill_next_due(inner, request, &arrays, answer.reach, &mut claim).await?;
    }
    Ok(claim)
}

/// Claims, and asks for what a lost reply has leased.
async fn claim_once(
    inner: &Inner,
    request: &ClaimRequest,
    arrays: &Arrays,
) -> Result<Answered, Error> {
    match claim_new(inner, request, arrays).await {
        Ok(answer) => Ok(answer),
        Err(failed) if failed.unknown => {
            // The same question a worker would ask, one failed call earlier.
            let found = recover(inner, request, arrays).await?;
            if !found.messages.is_empty() {
                return Ok(Answered::whole(found));
            }
            Ok(claim_new(inner, request, arrays).await?)
        }
        Err(failed) => Err(failed.into()),
    }
}

/// What a claim took, and how much of what there is it could have taken.
struct Answered {
    claim: Claim,
    reach: Reach,
}

impl Answered {
    fn whole(claim: Claim) -> Self {
        Self {
            claim,
            reach: Reach::Whole,
        }
    }
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

/// Places in the index of pending messages, for each queue and priority, as arrays.
struct Since {
    due: Vec<Option<Timestamp>>,
    ids: Vec<i64>,
}

impl Since {
    fn new(marks: impl Iterator<Item = Option<Mark>>) -> Self {
        let (due, ids) = marks
            .map(|mark| match mark {
                Some(mark) => (Some(mark.due_at), mark.id),
                None => (None, i64::MIN),
            })
            .unzip();
        Self { due, ids }
    }
}

async fn claim_new(
    inner: &Inner,
    request: &ClaimRequest,
    arrays: &Arrays,
) -> Result<Answered, Failed> {
    match request.source {
        Source::Pending => claim_pending(inner, request, arrays).await,
        Source::Expired => claim_expired(inner, request, arrays).await,
    }
}

async fn claim_pending(
    inner: &Inner,
    request: &ClaimRequest,
    arrays: &Arrays,
) -> Result<Answered, Failed> {
    let reading = inner.watermarks.read(&request.queues, Instant::now());
    let rows = match &request.queues[..] {
        [queue] if reading.is_of_clear() => claim_clear(inner, request, queue).await?,
        _ => claim_levels(inner, request, arrays, Since::new(reading.since())).await?,
    };
    let mut messages = read_leased(request, &rows)?;
    // "returning" promises no order.
    sort_by_start(request, &mut messages);
    let reach = reading.answered(&messages, request.limit, Instant::now());
    Ok(Answered {
        claim: claim_of(messages),
        reach,
    })
}

/// Claims from each queue and priority by itself.
async fn claim_levels(
    inner: &Inner,
    request: &ClaimRequest,
    arrays: &Arrays,
    since: Since,
) -> Result<Vec<PgRow>, Failed> {
    let answer = inner
        .control
        .fetch("claim", Repeat::Ask, || {
            sqlx::query(inner.statements.claim_pending.clone())
                .bind(request.token.as_uuid())
                .bind(&arrays.level_queues)
                .bind(&arrays.level_priorities)
                .bind(&arrays.level_ttls)
                .bind(limit(request))
                .bind(&since.due)
                .bind(&since.ids)
        })
        .await?;
    Ok(answer.rows)
}

/// Claims from a queue that holds next to nothing.
async fn claim_clear(
    inner: &Inner,
    request: &ClaimRequest,
    lease: &QueueLease,
) -> Result<Vec<PgRow>, Failed> {
    let answer = inner
        .control
        .fetch("claim", Repeat::Ask, || {
            sqlx::query(inner.statements.claim_clear.clone())
                .bind(request.token.as_uuid())
                .bind(&*lease.queue)
                .bind(interval(lease.lease_ttl))
                .bind(limit(request))
        })
        .await?;
    Ok(answer.rows)
}

async fn claim_expired(
    inner: &Inner,
    request: &ClaimRequest,
    arrays: &Arrays,
) -> Result<Answered, Failed> {
    let look = inner.watermarks.look(&request.queues, Instant::now());
    let losses = i16::try_from(MAX_LEASE_LOSSES).unwrap_or(i16::MAX);
    let answer = inner
        .control
        .fetch("claim", Repeat::Ask, || {
            sqlx::query(inner.statements.claim_expired.clone())
                .bind(request.token.as_uuid())
                .bind(&arrays.queues)
                .bind(&arrays.lease_ttls)
                .bind(limit(request))
                .bind(losses)
                .bind(&arrays.max_attempts)
                .bind(look.since())
        })
        .await?;
    look.answered(!answer.rows.is_empty(), Instant::now());
    let claim = read_expired(request, &answer.rows);
    let claim = claim.map_err(|error| storage_error("claim", error))?;
    Ok(Answered::whole(claim))
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
        .await;
    // What is beyond the limit is released, before the marks.
    inner.watermarks.doubt();
    // In their place among pending messages, whatever the claim was: the lost reply's own order,
    // that of the ends of expired leases, is overwritten.
    let mut messages = read_leased(request, &answer?.rows)?;
    sort_by_start(request, &mut messages);
    Ok(claim_of(messages))
}

fn read_leased(request: &ClaimRequest, rows: &[PgRow]) -> Result<Vec<Leased>, Error> {
    let mut names = Names::of_queues(&request.queues);
    let messages = rows
        .iter()
        .map(|row| leased(row, request.token, &mut names));
    let messages = messages.collect::<Result<_, _>>();
    messages.map_err(|error| storage_error("claim", error))
}

fn read_expired(request: &ClaimRequest, rows: &[PgRow]) -> Result<Claim, sqlx::Error> {
    let mut names = Names::of_queues(&request.queues);
    let mut messages = Vec::with_capacity(rows.len());
    let mut dead = Vec::new();
    for row in rows {
        match dead_lettered(row, &mut names)? {
            Some(letter) => dead.push(letter),
            None => messages.push(leased(row, request.token, &mut names)?),
        }
    }
    // "returning" promises no order.
    messages.sort_by_key(|message| (message.due_at, message.claimed.id));
    let mut claim = claim_of(messages);
    claim.dead = dead;
    Ok(claim)
}

async fn fill_next_due(
    inner: &Inner,
    request: &ClaimRequest,
    arrays: &Arrays,
    reach: Reach,
    claim: &mut Claim,
) -> Result<(), Error> {
    let begun = Instant::now();
    let ahead = inner.watermarks.ahead(&request.queues, begun);
    let since = Since::new(ahead.since.iter().copied());
    let answer = inner
        .control
        .fetch("claim", Repeat::Harmless, || {
            sqlx::query(inner.statements.next_due.clone())
                .bind(&arrays.level_queues)
                .bind(&arrays.level_priorities)
                .bind(&ahead.lease_queues)
                .bind(&since.due)
                .bind(&since.ids)
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
    let hints = ahead.hints(reach, request.queues.len());
    let due_in = wait("due_in")?;
    inner
        .watermarks
        .saw(&request.queues, &ahead, due_in.is_none());
    claim.next_due = sooner(due_in, hints.sweep_in);
    claim.next_expiry = sooner(wait("expires_in")?, hints.look_in);
    let asked_at = row.try_get("asked_at");
    let asked_at = asked_at.map_err(|error| storage_error("claim", error))?;
    let now = Instant::now();
    let watermarks = &inner.watermarks;
    watermarks.looked_ahead(&ahead, asked_at, now.saturating_duration_since(begun), now);
    Ok(())
}

fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}
