//! Claims of expired leases: who runs again, who runs alone, and who becomes a dead letter.

use std::collections::HashMap;

use outbox_core::{Claim, ClaimRequest, DeadReason, Error, MessageId, QueueLease};
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::claim::{Due, limit};
use super::codec::{letter, list, millis};
use super::error::storage_error;
use super::storage::Inner;
use crate::rows::{Fields, Leased, Names, claim_of, dead_lettered, leased};

/// Takes over what [`Due`] has seen. What its holder renews or settles between the look and the
/// transaction is left alone, because each write matches the token and the end that were seen.
pub(super) async fn claim(
    inner: &Inner,
    request: &ClaimRequest,
    due: &Due,
) -> Result<Claim, Error> {
    let mut candidates = Vec::new();
    for lease in due.expired(request) {
        let query = sqlx::query(inner.statements.expired.clone())
            .bind(&*lease.queue)
            .bind(limit(request));
        let rows = inner.control.fetch("claim", query).await?;
        let read = rows.iter().map(|row| Candidate::read(lease, row));
        let read: Result<Vec<_>, _> = read.collect();
        candidates.extend(read.map_err(|error| storage_error("claim", error))?);
    }
    let plan = Plan::new(candidates, request.limit);
    if plan.is_empty() {
        return Ok(Claim::default());
    }
    let query = sqlx::query(inner.texts.take_over.clone())
        .bind(list(plan.letters))
        .bind(list(plan.reclaims))
        .bind(request.token.as_uuid());
    let rows = inner.control.fetch("claim", query).await?;
    read(request, &rows, &plan.places).map_err(|error| storage_error("claim", error))
}

/// A message whose lease has expired.
struct Candidate<'r> {
    id: MessageId,
    /// In hexadecimal.
    token: String,
    /// When its lease ended, in milliseconds since the Unix epoch.
    ended: i64,
    lease_losses: u16,
    attempts: u16,
    max_attempts: u16,
    lease: &'r QueueLease,
}

impl<'r> Candidate<'r> {
    fn read(lease: &'r QueueLease, row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.id("id")?,
            token: row.try_get("token")?,
            ended: row.try_get("lease_expires_at")?,
            lease_losses: row.count("lease_losses")?,
            attempts: row.count("attempts")?,
            max_attempts: row.count("max_attempts")?,
            lease,
        })
    }

    fn reason_to_die(&self) -> Option<DeadReason> {
        let allowed = self.lease.max_attempts.unwrap_or(0);
        let max_attempts = self.max_attempts.max(allowed);
        DeadReason::of_expired_lease(self.attempts, max_attempts, self.lease_losses)
    }
}

/// What one transaction does with the candidates.
struct Plan {
    letters: Vec<Value>,
    reclaims: Vec<Value>,
    /// The place of each reclaimed message in the answer.
    places: HashMap<MessageId, usize>,
}

impl Plan {
    /// Those whose lease ended first come first. A message that was lost before may be what kills
    /// its holders: it is taken alone, so that it cannot take others with it.
    fn new(mut candidates: Vec<Candidate<'_>>, limit: usize) -> Self {
        candidates.sort_unstable_by_key(|candidate| (candidate.ended, candidate.id));
        let mut plan = Self {
            letters: Vec::new(),
            reclaims: Vec::new(),
            places: HashMap::new(),
        };
        for candidate in candidates {
            let (id, token) = (candidate.id, &candidate.token);
            let suspect = candidate.lease_losses > 0;
            if let Some(reason) = candidate.reason_to_die() {
                plan.letters.push(letter(
                    id,
                    token,
                    reason.as_str(),
                    None,
                    Some(candidate.ended),
                ));
            } else if plan.reclaims.is_empty() || !suspect {
                let lease_ttl = millis(candidate.lease.lease_ttl);
                plan.places.insert(id, plan.reclaims.len());
                plan.reclaims
                    .push(json!([id.0, token, candidate.ended, lease_ttl]));
                if suspect || plan.reclaims.len() >= limit {
                    break;
                }
            }
        }
        plan
    }

    fn is_empty(&self) -> bool {
        self.letters.is_empty() && self.reclaims.is_empty()
    }
}

fn read(
    request: &ClaimRequest,
    rows: &[SqliteRow],
    places: &HashMap<MessageId, usize>,
) -> Result<Claim, sqlx::Error> {
    let mut names = Names::of_queues(&request.queues);
    let mut messages: Vec<Leased> = Vec::with_capacity(rows.len());
    let mut dead = Vec::new();
    for row in rows {
        match dead_lettered(row, &mut names)? {
            Some(letter) => dead.push(letter),
            None => messages.push(leased(row, request.token, &mut names)?),
        }
    }
    messages.sort_unstable_by_key(|message| places.get(&message.claimed.id));
    let mut claim = claim_of(messages);
    claim.dead = dead;
    Ok(claim)
}
