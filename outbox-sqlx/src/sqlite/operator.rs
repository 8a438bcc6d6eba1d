//! What an operator does with dead letters: listing them, making them messages again, and deleting
//! them for good.

use std::time::Duration;

use outbox_core::{Error, MessageId};

use super::codec::millis;
use super::error::{is_conflict, storage_error};
use super::storage::SqliteStorage;
use crate::dead_letter::{DeadLetter, DeadLetterQuery, PURGE_LOT, Revived};
use crate::rows::ids_of;

impl SqliteStorage {
    /// Lists dead letters, ordered by id.
    ///
    /// # Errors
    /// An error of the database.
    pub async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetter>, Error> {
        let listing = sqlx::query(self.inner.statements.dead_letters.clone())
            .bind(query.queue.clone())
            .bind(query.after.0)
            .bind(query.limit);
        let rows = self.inner.control.fetch("dead_letters", listing).await?;
        let letters = rows.iter().map(DeadLetter::read).collect::<Result<_, _>>();
        letters.map_err(|error| storage_error("dead_letters", error))
    }

    /// Makes a dead letter a message again: the same id and content, due now, with attempts and
    /// lease losses from zero. Its count of deliveries goes on.
    ///
    /// # Errors
    /// An error of the database.
    pub async fn revive(&self, id: MessageId) -> Result<Revived, Error> {
        let query = sqlx::query(self.inner.texts.revive.clone()).bind(id.0);
        match self.inner.durable.fetch("revive", query).await {
            Ok(rows) if rows.is_empty() => Ok(Revived::NotFound),
            Ok(_) => Ok(Revived::Revived),
            Err(error) if is_caused_by_conflict(&error) => Ok(Revived::KeyTaken),
            Err(error) => Err(error),
        }
    }

    /// Deletes dead letters for good that died more than `age` ago, of one queue or of all.
    /// Returns how many.
    ///
    /// They go in lots of 1,000, each a transaction of its own, so that others write in between.
    ///
    /// # Errors
    /// An error of the database; the lots before it are deleted.
    ///
    /// # Cancellation
    /// A dropped call has deleted some lots and not the others.
    pub async fn purge_dead_letters(
        &self,
        queue: Option<&str>,
        age: Duration,
    ) -> Result<u64, Error> {
        let mut total = 0;
        let mut after = MessageId(i64::MIN);
        loop {
            let query = sqlx::query(self.inner.statements.purge_dead_letters.clone())
                .bind(queue)
                .bind(millis(age))
                .bind(after.0)
                .bind(PURGE_LOT);
            let rows = self.inner.control.fetch("purge", query).await?;
            let purged: Vec<_> = ids_of(&rows).map_err(|error| storage_error("purge", error))?;
            total += purged.len() as u64;
            match purged.iter().max() {
                Some(last) if i64::try_from(purged.len()) == Ok(PURGE_LOT) => after = *last,
                _ => return Ok(total),
            }
        }
    }
}

fn is_caused_by_conflict(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    let source = source.and_then(|source| source.downcast_ref());
    source.is_some_and(is_conflict)
}
