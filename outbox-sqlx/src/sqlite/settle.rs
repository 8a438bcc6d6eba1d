//! Settles and renewals: what the statements read as JSON, and what they answer.

use std::collections::HashSet;

use outbox_core::{Error, Held, LeaseToken, MessageId, Renewal, Renewed, Settled, Settlement};
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::codec::{decode, hex, letter, list, millis};
use super::error::storage_error;
use super::lane::Lane;
use super::storage::Inner;
use crate::outcomes::{Outcomes, Returned};
use crate::rows::{Fields, ids_of};

/// Writes outcomes in one transaction. None is ever busy: nobody can lock a message.
pub(super) async fn settle(inner: &Inner, settlements: &[Settlement]) -> Result<Settled, Error> {
    if settlements.is_empty() {
        return Ok(Settled::default());
    }
    let outcomes = Outcomes::new(settlements);
    let buried = outcomes.buried.iter();
    let query = sqlx::query(inner.texts.settle.clone())
        .bind(list(buried.map(|outcome| {
            let token = hex(outcome.held.token);
            letter(
                outcome.held.id,
                &token,
                outcome.reason,
                Some(&outcome.error),
                None,
            )
        })))
        .bind(by_token(&outcomes.deleted))
        .bind(list(outcomes.returned.iter().map(returned)));
    let rows = inner.control.fetch("settle", query).await?;
    let written = written(&rows).map_err(|error| storage_error("settle", error))?;
    Ok(Settled::new(written))
}

/// The ids of what is deleted come in one row, all others in a row each.
fn written(rows: &[SqliteRow]) -> Result<Vec<MessageId>, sqlx::Error> {
    let mut written = Vec::new();
    for row in rows {
        if row.try_column("ids").is_ok() {
            let ids: Vec<i64> = serde_json::from_str(&row.text("ids")?).map_err(decode)?;
            written.extend(ids.into_iter().map(MessageId));
            // Of one that was settled twice.
            written.dedup();
        } else {
            written.push(row.id("id")?);
        }
    }
    Ok(written)
}

/// The ids of each token, as `settle_delete.sql` reads them.
fn by_token(held: &[Held]) -> String {
    // Of a few claims, which is why a search is enough.
    let mut leases: Vec<(LeaseToken, Vec<Value>)> = Vec::new();
    for held in held {
        let id = Value::from(held.id.0);
        match leases.iter_mut().find(|(token, _)| *token == held.token) {
            Some((_, ids)) => ids.push(id),
            None => leases.push((held.token, vec![id])),
        }
    }
    list(
        leases
            .into_iter()
            .map(|(token, ids)| json!([hex(token), ids])),
    )
}

fn returned(outcome: &Returned) -> Value {
    json!([
        outcome.held.id.0,
        hex(outcome.held.token),
        outcome.delay.map(millis),
        u8::from(outcome.refund),
        u8::from(outcome.forgive),
        outcome.error,
    ])
}

/// Renews leases on this lane.
pub(super) async fn renew(
    inner: &Inner,
    lane: &Lane,
    renewals: &[Renewal],
) -> Result<Renewed, Error> {
    if renewals.is_empty() {
        return Ok(Renewed::default());
    }
    let held = |renewal: &Renewal| {
        let (held, lease_ttl) = (renewal.held, millis(renewal.lease_ttl));
        json!([held.id.0, hex(held.token), lease_ttl])
    };
    let query = sqlx::query(inner.statements.renew.clone()).bind(list(renewals.iter().map(held)));
    let rows = lane.fetch("renew", query).await?;
    let renewed: HashSet<MessageId> =
        ids_of(&rows).map_err(|error| storage_error("renew", error))?;
    let asked = renewals.iter().map(|renewal| renewal.held.id);
    let (renewed, lost) = asked.partition(|id| renewed.contains(id));
    Ok(Renewed::new(renewed, lost))
}
