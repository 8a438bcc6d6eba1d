//! Claims: what is due, pending messages, and what a lost reply leased. Expired leases are in
//! `expired.rs`.

use std::time::Duration;

use outbox_core::{Claim, ClaimRequest, Error, QueueLease, Source};
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};

use super::codec::{decode, list, millis};
use super::error::storage_error;
use super::expired;
use super::rows::Packed;
use super::storage::Inner;
use crate::rows::{Fields, Leased, Names, claim_of, leased, place_of, sort_by_start};

/// Claims as the request says.
///
/// It looks before it writes: a worker that finds nothing never asks for the write lock. What it
/// saw may be gone when it writes; the statements that write look for themselves.
pub(super) async fn claim(inner: &Inner, request: &ClaimRequest) -> Result<Claim, Error> {
    if request.resume {
        let found = recover(inner, request).await?;
        if !found.messages.is_empty() {
            return Ok(found);
        }
    }
    let due = Due::look(inner, request).await?;
    let mut claim = match request.source {
        Source::Expired => expired::claim(inner, request, &due).await?,
        // Pending, and any source of a newer core, for which pending is the safe reading.
        _ => claim_pending(inner, request, &due).await?,
    };
    if !claim.messages.is_empty() {
        return Ok(claim);
    }
    let due = if due.has_any(request.source) {
        Due::look(inner, request).await?
    } else {
        due
    };
    claim.next_due = due.levels.iter().map(|level| level.wait).min();
    claim.next_expiry = due.leases.iter().map(|lease| lease.wait).min();
    Ok(claim)
}

/// What waits in the queues of a request: the first message of each queue and priority, and the
/// first lease of each queue.
pub(super) struct Due {
    /// When it was asked, in milliseconds since the Unix epoch; 0 where nothing waits.
    asked_at: i64,
    levels: Vec<Level>,
    leases: Vec<Ending>,
}

struct Level {
    /// Of the queue in the request.
    place: usize,
    priority: i16,
    wait: Duration,
}

struct Ending {
    place: usize,
    wait: Duration,
}

impl Due {
    async fn look(inner: &Inner, request: &ClaimRequest) -> Result<Self, Error> {
        let query =
            sqlx::query(inner.statements.next_due.clone()).bind(queue_names(&request.queues));
        let rows = inner.control.fetch("claim", query).await?;
        let mut due = Self::read(&rows).map_err(|error| storage_error("claim", error))?;
        // A queue that is asked for twice would give each of its messages twice.
        let asked = |place: usize| request.queues.get(place).map(|lease| &*lease.queue);
        let is_first = |place| asked(place).is_some_and(|queue| place_of(request, queue) == place);
        due.levels.retain(|level| is_first(level.place));
        due.leases.retain(|lease| is_first(lease.place));
        Ok(due)
    }

    fn read(rows: &[SqliteRow]) -> Result<Self, sqlx::Error> {
        let mut due = Self {
            asked_at: 0,
            levels: Vec::new(),
            leases: Vec::new(),
        };
        for row in rows {
            due.asked_at = row.try_get("asked_at")?;
            let place: i64 = row.try_get("place")?;
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            let wait: i64 = row.try_get("wait")?;
            let wait = Duration::from_millis(u64::try_from(wait).unwrap_or(0));
            match row.try_get("priority")? {
                Some(priority) => due.levels.push(Level {
                    place,
                    priority,
                    wait,
                }),
                None => due.leases.push(Ending { place, wait }),
            }
        }
        due.levels
            .sort_unstable_by_key(|level| (level.place, level.priority));
        Ok(due)
    }

    /// Whether there was anything to claim.
    fn has_any(&self, source: Source) -> bool {
        match source {
            Source::Expired => self.leases.iter().any(|lease| lease.wait.is_zero()),
            _ => self.levels.iter().any(|level| level.wait.is_zero()),
        }
    }

    /// The queues in which a lease has expired.
    pub(super) fn expired<'r>(
        &self,
        request: &'r ClaimRequest,
    ) -> impl Iterator<Item = &'r QueueLease> {
        let ended = self.leases.iter().filter(|lease| lease.wait.is_zero());
        ended.filter_map(|lease| request.queues.get(lease.place))
    }

    /// The levels in which a message is due, as `pending.sql` reads them.
    fn pending(&self, request: &ClaimRequest) -> Vec<Value> {
        let due = self.levels.iter().filter(|level| level.wait.is_zero());
        due.filter_map(|level| {
            let lease = request.queues.get(level.place)?;
            Some(json!([
                &*lease.queue,
                level.priority,
                millis(lease.lease_ttl)
            ]))
        })
        .collect()
    }
}

fn queue_names(queues: &[QueueLease]) -> String {
    list(queues.iter().map(|lease| Value::from(&*lease.queue)))
}

/// How many messages at most, as SQLite counts.
pub(super) fn limit(request: &ClaimRequest) -> i64 {
    i64::try_from(request.limit).unwrap_or(i64::MAX)
}

async fn claim_pending(inner: &Inner, request: &ClaimRequest, due: &Due) -> Result<Claim, Error> {
    let levels = due.pending(request);
    if levels.is_empty() {
        return Ok(Claim::default());
    }
    let query = sqlx::query(inner.texts.claim.clone())
        .bind(request.token.as_uuid())
        .bind(list(levels))
        .bind(limit(request))
        .bind(due.asked_at);
    let rows = inner.control.fetch("claim", query).await?;
    let mut names = Names::of_queues(&request.queues);
    let read = unpack(request, &rows, &mut names);
    let (mut messages, large) = read.map_err(|error| storage_error("claim", error))?;
    if !large.is_empty() {
        // If this fails, the claim has failed, and is recovered as one whose reply was lost.
        let query = sqlx::query(inner.statements.large.clone())
            .bind(request.token.as_uuid())
            .bind(list(large));
        messages.extend(read_leased(inner, request, &mut names, query).await?);
    }
    sort_by_start(request, &mut messages);
    Ok(claim_of(messages))
}

/// The messages that `pending.sql` has packed, and the ids of those that are large.
fn unpack(
    request: &ClaimRequest,
    rows: &[SqliteRow],
    names: &mut Names,
) -> Result<(Vec<Leased>, Vec<Value>), sqlx::Error> {
    let mut messages = Vec::new();
    let mut large = Vec::new();
    for row in rows {
        for message in row.text("messages")?.lines() {
            match serde_json::from_str(message).map_err(decode)? {
                Value::Array(columns) => {
                    messages.push(leased(&Packed(&columns), request.token, names)?);
                }
                id => large.push(id),
            }
        }
    }
    Ok((messages, large))
}

/// Finds what an earlier call with this token has leased: begins the leases anew of what starts
/// first, and gives back what is beyond the limit.
async fn recover(inner: &Inner, request: &ClaimRequest) -> Result<Claim, Error> {
    let query = sqlx::query(inner.texts.find_held.clone())
        .bind(request.token.as_uuid())
        .bind(queue_names(&request.queues));
    let rows = inner.control.fetch("claim", query).await?;
    let held = rows.iter().map(|row| Held::read(request, row));
    let held = held.collect::<Result<Vec<_>, _>>();
    let mut held = held.map_err(|error| storage_error("claim", error))?;
    if held.is_empty() {
        return Ok(Claim::default());
    }
    held.sort_unstable_by_key(|held| held.start);
    let released = held.split_off(request.limit.min(held.len()));
    let query = sqlx::query(inner.texts.recover.clone())
        .bind(request.token.as_uuid())
        .bind(list(
            held.iter().map(|held| json!([held.id, held.lease_ttl])),
        ))
        .bind(list(released.iter().map(|held| Value::from(held.id))));
    claim_with(inner, request, query).await
}

/// A lease of a claim whose reply was lost.
struct Held {
    /// Its place among the others: queue, priority, due time, id.
    start: (usize, i16, i64, i64),
    id: i64,
    lease_ttl: i64,
}

impl Held {
    fn read(request: &ClaimRequest, row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let id = row.try_get("id")?;
        let place = place_of(request, &row.text("queue")?);
        let lease = request.queues.get(place);
        let due_at = row.try_get("next_attempt_at")?;
        Ok(Self {
            start: (place, row.small("priority")?, due_at, id),
            id,
            lease_ttl: lease.map_or(0, |lease| millis(lease.lease_ttl)),
        })
    }
}

/// The leased messages of an answer, those that start first in front.
async fn claim_with(
    inner: &Inner,
    request: &ClaimRequest,
    query: Query<'_, Sqlite, SqliteArguments>,
) -> Result<Claim, Error> {
    let mut names = Names::of_queues(&request.queues);
    let mut messages = read_leased(inner, request, &mut names, query).await?;
    sort_by_start(request, &mut messages);
    Ok(claim_of(messages))
}

async fn read_leased(
    inner: &Inner,
    request: &ClaimRequest,
    names: &mut Names,
    query: Query<'_, Sqlite, SqliteArguments>,
) -> Result<Vec<Leased>, Error> {
    let read = |row: SqliteRow| leased(&row, request.token, names);
    let messages = inner.control.read("claim", query, read).await?;
    let messages: Result<Vec<Leased>, _> = messages.into_iter().collect();
    messages.map_err(|error| storage_error("claim", error))
}
