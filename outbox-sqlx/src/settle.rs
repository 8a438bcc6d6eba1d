//! A batch of outcomes, sorted into the arrays of `settle.sql`.

use outbox_core::{Settlement, Verdict, clip_error};
use sqlx::SqlStr;
use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;
use uuid::Uuid;

use crate::codec::interval;

#[derive(Default)]
struct Deleted {
    ids: Vec<i64>,
    tokens: Vec<Uuid>,
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

/// The arrays of one settle.
pub(crate) struct SettleBatch {
    deleted: Deleted,
    returned: Returned,
    buried: Buried,
}

impl SettleBatch {
    pub(crate) fn new(settlements: &[Settlement]) -> Self {
        let mut sorted: Vec<&Settlement> = settlements.iter().collect();
        // The lock order of every batch writer; without it two batches can wait for each other.
        sorted.sort_by_key(|settlement| settlement.id);
        let mut batch = Self {
            deleted: Deleted::default(),
            returned: Returned::default(),
            buried: Buried::default(),
        };
        for settlement in sorted {
            batch.add(settlement);
        }
        batch
    }

    fn add(&mut self, settlement: &Settlement) {
        let id = settlement.id.0;
        let token = settlement.token.as_uuid();
        match &settlement.verdict {
            Verdict::Retry { after, error } => {
                let error = Some(clip_error(error.clone()));
                self.make_available(id, token, Some(interval(*after)), false, true, error);
            }
            Verdict::Snooze { after } => {
                self.make_available(id, token, Some(interval(*after)), true, true, None);
            }
            Verdict::Release => self.make_available(id, token, None, true, false, None),
            Verdict::Dead { reason, error } => {
                self.buried.ids.push(id);
                self.buried.tokens.push(token);
                self.buried.reasons.push(reason.as_str());
                self.buried.errors.push(clip_error(error.clone()));
            }
            Verdict::Done | Verdict::Discard => {
                self.deleted.ids.push(id);
                self.deleted.tokens.push(token);
            }
            // A verdict of a newer core: giving the message back loses nothing.
            _ => self.make_available(id, token, None, true, false, None),
        }
    }

    fn make_available(
        &mut self,
        id: i64,
        token: Uuid,
        delay: Option<PgInterval>,
        refund: bool,
        forgive: bool,
        error: Option<String>,
    ) {
        let returned = &mut self.returned;
        returned.ids.push(id);
        returned.tokens.push(token);
        returned.delays.push(delay);
        returned.refunds.push(refund);
        returned.forgiven.push(forgive);
        returned.errors.push(error);
    }

    pub(crate) fn query<'q>(&'q self, sql: SqlStr) -> Query<'q, Postgres, PgArguments> {
        sqlx::query(sql)
            .bind(&self.deleted.ids)
            .bind(&self.deleted.tokens)
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
