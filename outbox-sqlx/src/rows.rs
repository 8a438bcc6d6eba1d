//! From rows to claimed messages.

use std::sync::Arc;

use outbox_core::{Claimed, DeadLettered, DeadReason, Held, LeaseToken, MessageId, QueueLease};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::codec::{Timestamp, headers_from};

/// A leased message with what its batch is sorted by.
pub(crate) struct Leased {
    pub(crate) claimed: Claimed,
    pub(crate) priority: i16,
    pub(crate) due_at: Timestamp,
}

/// Shares the few queue, kind and content type names of a batch.
#[derive(Default)]
pub(crate) struct Names(Vec<Arc<str>>);

impl Names {
    pub(crate) fn of_queues(queues: &[QueueLease]) -> Self {
        Self(queues.iter().map(|lease| lease.queue.clone()).collect())
    }

    fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| known.as_ref() == name) {
            return known.clone();
        }
        let new: Arc<str> = Arc::from(name);
        self.0.push(new.clone());
        new
    }
}

/// Reads a leased message.
pub(crate) fn leased(
    row: &PgRow,
    token: LeaseToken,
    names: &mut Names,
) -> Result<Leased, sqlx::Error> {
    let held = Held {
        id: MessageId(row.try_get("id")?),
        token,
    };
    let queue = names.share(row.try_get("queue")?);
    let kind = names.share(row.try_get("kind")?);
    let created_at: Timestamp = row.try_get("created_at")?;
    let claimed_at: Timestamp = row.try_get("claimed_at")?;
    let mut claimed = Claimed::new(held, queue, kind, row.try_get("payload")?);
    claimed.content_type = names.share(row.try_get("content_type")?);
    claimed.headers = headers_from(row.try_get("headers")?);
    claimed.attempt = count(row.try_get("attempts")?);
    claimed.max_attempts = count(row.try_get("max_attempts")?);
    claimed.lease_losses = count(row.try_get("lease_losses")?);
    claimed.deliveries = u32::try_from(row.try_get::<i32, _>("deliveries")?).unwrap_or(0);
    claimed.key = row.try_get("key")?;
    claimed.group = row.try_get("group_key")?;
    claimed.tag = row.try_get("tag")?;
    claimed.created_at = created_at.into();
    claimed.age = claimed_at.since(created_at);
    Ok(Leased {
        claimed,
        priority: row.try_get("priority")?,
        due_at: row.try_get("due_at")?,
    })
}

/// Reads a message that a claim turned into a dead letter; `None` for a leased one.
pub(crate) fn dead_lettered(
    row: &PgRow,
    names: &mut Names,
) -> Result<Option<DeadLettered>, sqlx::Error> {
    let Some(reason) = row.try_get::<Option<&str>, _>("reason")? else {
        return Ok(None);
    };
    // The statement writes no other names.
    let reason = DeadReason::from_name(reason).unwrap_or(DeadReason::Crashed);
    Ok(Some(DeadLettered {
        id: MessageId(row.try_get("id")?),
        queue: names.share(row.try_get("queue")?),
        kind: names.share(row.try_get("kind")?),
        reason,
    }))
}

/// A count that the schema keeps from being negative.
pub(crate) fn count(value: i16) -> u16 {
    u16::try_from(value).unwrap_or(0)
}
