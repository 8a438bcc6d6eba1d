//! Renewals: a batch of leases as the arrays of `renew.sql`, and its answer.

use outbox_core::{Error, Renewal, Renewed};
use sqlx::Row;

use crate::codec::interval;
use crate::error::storage_error;
use crate::lane::{Lane, Repeat};
use crate::rows::Fields;
use crate::storage::Inner;

/// Renews leases on this lane.
pub(crate) async fn renew(
    inner: &Inner,
    lane: &Lane,
    renewals: &[Renewal],
) -> Result<Renewed, Error> {
    let mut sorted = renewals.to_vec();
    sorted.sort_by_key(|renewal| renewal.held.id);
    let asked: Vec<i64> = sorted.iter().map(|renewal| renewal.held.id.0).collect();
    let tokens: Vec<_> = sorted
        .iter()
        .map(|renewal| renewal.held.token.as_uuid())
        .collect();
    let ttls: Vec<_> = sorted
        .iter()
        .map(|renewal| interval(renewal.lease_ttl))
        .collect();
    let sql = &inner.statements.renew;
    let answer = lane
        .fetch("renew", Repeat::Harmless, || {
            sqlx::query(sql.clone())
                .bind(&asked)
                .bind(&tokens)
                .bind(&ttls)
        })
        .await?;
    let mut renewed = Renewed::default();
    for row in &answer.rows {
        let id = row
            .id("id")
            .map_err(|error| storage_error("renew", error))?;
        let holds: bool = row
            .try_get("renewed")
            .map_err(|error| storage_error("renew", error))?;
        if holds {
            renewed.renewed.push(id);
        } else {
            renewed.lost.push(id);
        }
    }
    Ok(renewed)
}
