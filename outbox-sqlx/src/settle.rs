//! Settles: a batch of outcomes, sorted into the arrays of `settle.sql`, and what becomes of it
//! when somebody keeps one of its messages locked.

use std::collections::BTreeSet;

use outbox_core::{Error, ErrorKind, MessageId, Settled, Settlement};
use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;
use sqlx::{Row, SqlStr};
use uuid::Uuid;

use crate::codec::interval;
use crate::error::{LOCK_TIMEOUT, storage_error};
use crate::lane::{Failed, Repeat};
use crate::outcomes::Outcomes;
use crate::rows::ids_of;
use crate::storage::Inner;

/// Writes outcomes in one statement. A message that somebody else keeps locked would stop them
/// all for as long as that lasts: after the time limit for locks the others are written without it.
pub(crate) async fn settle(inner: &Inner, settlements: &[Settlement]) -> Result<Settled, Error> {
    if settlements.is_empty() {
        return Ok(Settled::default());
    }
    match write(inner, settlements).await {
        Ok(written) => Ok(Settled::new(written)),
        // After a repetition even this failure does not say that nothing was written.
        Err(failed) if failed.code() == Some(LOCK_TIMEOUT) && !failed.repeated => {
            write_free(inner, settlements).await
        }
        Err(failed) => Err(failed.into()),
    }
}

/// Nothing of `settlements` was written; writes those whose messages nobody has locked. A message
/// that is locked meanwhile, or a lock of the whole table, fails as the first statement did.
async fn write_free(inner: &Inner, settlements: &[Settlement]) -> Result<Settled, Error> {
    let ids: Vec<i64> = settlements.iter().map(|one| one.id.0).collect();
    let tokens: Vec<Uuid> = settlements.iter().map(|one| one.token.as_uuid()).collect();
    let sql = &inner.statements.busy;
    let answer = inner
        .control
        .fetch("settle", Repeat::Harmless, || {
            sqlx::query(sql.clone()).bind(&ids).bind(&tokens)
        })
        .await?;
    let busy: BTreeSet<_> = ids_of(&answer.rows).map_err(|error| storage_error("settle", error))?;
    let free = settlements.iter().filter(|one| !busy.contains(&one.id));
    let free: Vec<Settlement> = free.cloned().collect();
    let mut settled = Settled::default();
    if !free.is_empty() {
        settled.written = write(inner, &free).await?;
    }
    settled.busy = busy.into_iter().collect();
    Ok(settled)
}

/// Runs both statements about no message.
pub(crate) async fn check(inner: &Inner) -> Result<(), Error> {
    write(inner, &[]).await?;
    write_free(inner, &[]).await?;
    Ok(())
}

/// Writes all or nothing, and returns the survivors.
async fn write(inner: &Inner, settlements: &[Settlement]) -> Result<Vec<MessageId>, Failed> {
    let arrays = Arrays::new(settlements);
    let sql = &inner.statements.settle;
    let answer = inner
        .control
        .fetch("settle", Repeat::Harmless, || arrays.query(sql.clone()))
        .await;
    if arrays.returned.delays.iter().any(Option::is_none) {
        // Released messages keep their due times, which claims have passed.
        inner.watermarks.doubt();
    }
    let answer = answer?;
    let mut written = Vec::with_capacity(settlements.len());
    for row in &answer.rows {
        let ids: Vec<i64> = row
            .try_get("ids")
            .map_err(|error| storage_error("settle", error))?;
        written.extend(ids.into_iter().map(MessageId));
    }
    if answer.repeated && written.is_empty() && !settlements.is_empty() {
        // The statement is all or nothing, so any id here proves that the first one did
        // nothing. None can mean that it did everything, or that every lease was lost.
        let unknown = Error::new(
            ErrorKind::Unavailable,
            "settle",
            "the connection was lost during a settle that may have taken effect",
        );
        return Err(unknown.into());
    }
    inner.house.count(written.len());
    Ok(written)
}

/// The arrays of one settle.
struct Arrays {
    deleted: (Vec<i64>, Vec<Uuid>),
    returned: Returned,
    buried: Buried,
}

#[derive(Default)]
struct Returned {
    ids: Vec<i64>,
    tokens: Vec<Uuid>,
    delays: Vec<Option<PgInterval>>,
    refunds: Vec<bool>,
    forgiven: Vec<bool>,
    errors: Vec<Option<String>>,
}

#[derive(Default)]
struct Buried {
    ids: Vec<i64>,
    tokens: Vec<Uuid>,
    reasons: Vec<&'static str>,
    errors: Vec<String>,
}

impl Arrays {
    fn new(settlements: &[Settlement]) -> Self {
        let outcomes = Outcomes::new(settlements);
        let mut returned = Returned::default();
        for outcome in outcomes.returned {
            returned.ids.push(outcome.held.id.0);
            returned.tokens.push(outcome.held.token.as_uuid());
            returned.delays.push(outcome.delay.map(interval));
            returned.refunds.push(outcome.refund);
            returned.forgiven.push(outcome.forgive);
            returned.errors.push(outcome.error);
        }
        let mut buried = Buried::default();
        for outcome in outcomes.buried {
            buried.ids.push(outcome.held.id.0);
            buried.tokens.push(outcome.held.token.as_uuid());
            buried.reasons.push(outcome.reason);
            buried.errors.push(outcome.error);
        }
        let deleted = outcomes.deleted.iter();
        Self {
            deleted: deleted
                .map(|held| (held.id.0, held.token.as_uuid()))
                .unzip(),
            returned,
            buried,
        }
    }

    fn query<'q>(&'q self, sql: SqlStr) -> Query<'q, Postgres, PgArguments> {
        sqlx::query(sql)
            .bind(&self.deleted.0)
            .bind(&self.deleted.1)
            .bind(&self.returned.ids)
            .bind(&self.returned.tokens)
            .bind(&self.returned.delays)
            .bind(&self.returned.refunds)
            .bind(&self.returned.forgiven)
            .bind(&self.returned.errors)
            .bind(&self.buried.ids)
            .bind(&self.buried.tokens)
            .bind(&self.buried.reasons)
            .bind(&self.buried.errors)
    }
}
