//! Many messages as the arrays of `enqueue_many.sql`, and its answer matched to them again.

use outbox_core::{MessageId, NewMessage};
use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{Row, SqlStr};

use crate::codec::{Timestamp, headers_json};
use crate::producer::{due, max_attempts};

/// One array for each column.
pub(crate) struct Columns<'m> {
    queues: Vec<&'m str>,
    kinds: Vec<&'m str>,
    payloads: Vec<&'m [u8]>,
    content_types: Vec<&'m str>,
    headers: Vec<Option<String>>,
    priorities: Vec<i16>,
    keys: Vec<Option<&'m str>>,
    groups: Vec<Option<&'m str>>,
    tags: Vec<Option<&'m str>>,
    max_attempts: Vec<i16>,
    delays: Vec<PgInterval>,
    due_at: Vec<Option<Timestamp>>,
}

impl<'m> Columns<'m> {
    pub(crate) fn new(messages: &'m [NewMessage]) -> Self {
        let (delays, due_at) = messages.iter().map(due).unzip();
        Self {
            queues: messages.iter().map(|new| new.queue.as_ref()).collect(),
            kinds: messages.iter().map(|new| new.kind.as_ref()).collect(),
            payloads: messages.iter().map(|new| new.payload.as_slice()).collect(),
            content_types: messages
                .iter()
                .map(|new| new.content_type.as_ref())
                .collect(),
            headers: messages
                .iter()
                .map(|new| headers_json(&new.headers))
                .collect(),
            priorities: messages.iter().map(|new| new.priority).collect(),
            keys: messages.iter().map(|new| new.key.as_deref()).collect(),
            groups: messages.iter().map(|new| new.group.as_deref()).collect(),
            tags: messages.iter().map(|new| new.tag.as_deref()).collect(),
            max_attempts: messages.iter().map(max_attempts).collect(),
            delays,
            due_at,
        }
    }

    pub(crate) fn query<'q>(
        &'q self,
        sql: SqlStr,
        channel: &'q str,
        wake: bool,
    ) -> Query<'q, Postgres, PgArguments> {
        sqlx::query(sql)
            .bind(&self.queues)
            .bind(&self.kinds)
            .bind(&self.payloads)
            .bind(&self.content_types)
            .bind(&self.headers)
            .bind(&self.priorities)
            .bind(&self.keys)
            .bind(&self.groups)
            .bind(&self.tags)
            .bind(&self.max_attempts)
            .bind(&self.delays)
            .bind(&self.due_at)
            .bind(channel)
            .bind(wake)
    }
}

/// One id for each message, `None` where its key was live.
///
/// The rows are the messages in order with some left out, and only a message with a key can be
/// left out; so the next row belongs to the next message unless their keys differ. Equal keys
/// cannot mislead: of two equal ones in a batch it is the first that is written.
pub(crate) fn match_written(
    messages: &[NewMessage],
    rows: &[PgRow],
) -> Result<Vec<Option<MessageId>>, sqlx::Error> {
    let mut rows = rows.iter().peekable();
    let mut ids = Vec::with_capacity(messages.len());
    for message in messages {
        let Some(row) = rows.peek() else {
            ids.push(None);
            continue;
        };
        let written = match &message.key {
            None => true,
            Some(key) => {
                row.try_get::<Option<&str>, _>("key")? == Some(key.as_str())
                    && row.try_get::<Option<&str>, _>("queue")? == Some(message.queue.as_ref())
            }
        };
        if written {
            ids.push(Some(MessageId(row.try_get("id")?)));
            rows.next();
        } else {
            ids.push(None);
        }
    }
    Ok(ids)
}
