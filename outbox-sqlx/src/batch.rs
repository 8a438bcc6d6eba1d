//! Many messages on their way in: which of them are sent, how many in one statement, and the
//! answer matched to them again.

use std::collections::HashSet;

use outbox_core::{MessageId, NewMessage};

use crate::rows::Fields;

/// Messages of one statement at most.
const CHUNK_MESSAGES: usize = 5_000;
/// Payload bytes of one statement, above which the next message starts another. Postgres takes at
/// most 1 GB, and so does SQLite.
const CHUNK_BYTES: usize = 64 * 1024 * 1024;

/// Splits messages into what one statement takes.
pub(crate) fn chunks(mut messages: &[NewMessage]) -> impl Iterator<Item = &[NewMessage]> {
    std::iter::from_fn(move || {
        if messages.is_empty() {
            return None;
        }
        let (chunk, rest) = messages.split_at(chunk_length(messages));
        messages = rest;
        Some(chunk)
    })
}

fn chunk_length(messages: &[NewMessage]) -> usize {
    let mut bytes = 0_usize;
    let fitting = messages
        .iter()
        .take(CHUNK_MESSAGES)
        .take_while(|message| {
            bytes = bytes.saturating_add(message.payload.len());
            bytes <= CHUNK_BYTES
        })
        .count();
    fitting.max(1)
}

/// The messages of one statement.
///
/// Of several messages with one queue and key only the first is tried: somebody else may free the
/// key while the statement runs, and a row for the second could not be told from one for the first.
pub(crate) struct Batch<'m> {
    messages: &'m [NewMessage],
    tried: Vec<bool>,
}

impl<'m> Batch<'m> {
    pub(crate) fn new(messages: &'m [NewMessage]) -> Self {
        Self {
            messages,
            tried: firsts(messages),
        }
    }

    /// Those that are tried, in order.
    pub(crate) fn tried(&self) -> impl Iterator<Item = &'m NewMessage> + Clone {
        let all = self.messages.iter().zip(&self.tried);
        all.filter(|(_, tried)| **tried).map(|(new, _)| new)
    }

    /// One id for each message, `None` where its key was live.
    ///
    /// The rows are the messages tried, in order and with some left out. Only one with a key can
    /// be left out, and no two have the same: so the next row belongs to the next message unless
    /// their keys differ.
    pub(crate) fn match_written<R: Fields>(
        &self,
        rows: &[R],
    ) -> Result<Vec<Option<MessageId>>, sqlx::Error> {
        let mut rows = rows.iter().peekable();
        let mut ids = Vec::with_capacity(self.messages.len());
        for (message, tried) in self.messages.iter().zip(&self.tried) {
            let written = match rows.peek() {
                Some(row) if *tried => is_of(message, *row)?,
                _ => false,
            };
            let row = if written { rows.next() } else { None };
            ids.push(row.map(|row| row.id("id")).transpose()?);
        }
        Ok(ids)
    }
}

/// Whether each message is the first of its queue and key, as one without a key is.
fn firsts(messages: &[NewMessage]) -> Vec<bool> {
    let mut seen = HashSet::new();
    messages
        .iter()
        .map(|new| match &new.key {
            None => true,
            Some(key) => seen.insert((new.queue.as_ref(), key.as_str())),
        })
        .collect()
}

fn is_of(message: &NewMessage, row: &impl Fields) -> Result<bool, sqlx::Error> {
    let Some(key) = &message.key else {
        return Ok(true);
    };
    Ok(row.optional_text("key")?.as_deref() == Some(key.as_str())
        && row.optional_text("queue")?.as_deref() == Some(message.queue.as_ref()))
}
