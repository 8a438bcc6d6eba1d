//! What an operator does with dead letters: listing them, making them messages again, and deleting
//! them for good.

use std::time::Duration;

use outbox_core::{Error, MessageId};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::codec::interval;
use crate::dead_letter::{DeadLetter, DeadLetterQuery, PURGE_LOT, Revived};
use crate::error::storage_error;
use crate::lane::Repeat;
use crate::producer::WakeUps;
use crate::storage::PgStorage;

impl PgStorage {
    /// Lists dead letters, ordered by id.
    ///
    /// # Errors
    /// An error of the database.
    pub async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetter>, Error> {
        let sql = &self.inner.statements.dead_letters;
        let answer = self
            .inner
            .control
            .fetch("dead_letters", Repeat::Harmless, || {
                sqlx::query(sql.clone())
                    .bind(&query.queue)
                    .bind(query.after.0)
                    .bind(i64::from(query.limit))
            })
            .await?;
        answer
            .rows
            .iter()
            .map(DeadLetter::read)
            .collect::<Result<_, _>>()
            .map_err(|error| storage_error("dead_letters", error))
    }

    /// Makes a dead letter a message again: the same id and content, due now, with attempts and
    /// lease losses from zero. Its count of deliveries goes on.
    ///
    /// # Errors
    /// An error of the database.
    pub async fn revive(&self, id: MessageId) -> Result<Revived, Error> {
        let sql = &self.inner.statements.revive;
        let channel = self.inner.schema.channel();
        let wake = self.inner.wake_ups != WakeUps::Off;
        let answer = self
            .inner
            .durable
            .fetch("revive", Repeat::Never, || {
                sqlx::query(sql.clone())
                    .bind(id.0)
                    .bind(&channel)
                    .bind(wake)
            })
            .await;
        match answer {
            Ok(answer) if answer.rows.is_empty() => Ok(Revived::NotFound),
            Ok(_) => Ok(Revived::Revived),
            Err(failed) if failed.code() == Some("23505") => Ok(Revived::KeyTaken),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Deletes dead letters for good that died more than `age` ago, of one queue or of all.
    /// Returns how many. One that somebody else has locked stays.
    ///
    /// They go in lots of 1,000, each a transaction of its own, so that a worker on the same
    /// storage claims and settles in between.
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
        let mut after = i64::MIN;
        loop {
            let (purged, last) = self.purge_lot(queue, age, after).await?;
            total += u64::try_from(purged).unwrap_or(0);
            match last {
                Some(last) if purged == PURGE_LOT => after = last,
                _ => return Ok(total),
            }
        }
    }

    /// How many were deleted, and the largest id of these.
    async fn purge_lot(
        &self,
        queue: Option<&str>,
        age: Duration,
        after: i64,
    ) -> Result<(i64, Option<i64>), Error> {
        let sql = &self.inner.statements.purge_dead_letters;
        let answer = self
            .inner
            .durable
            .fetch("purge", Repeat::Never, || {
                sqlx::query(sql.clone())
                    .bind(queue)
                    .bind(interval(age))
                    .bind(after)
                    .bind(PURGE_LOT)
            })
            .await?;
        let read = |row: &PgRow| Ok((row.try_get("purged")?, row.try_get("last_id")?));
        let lot = answer.rows.first().map(read).transpose();
        let lot = lot.map_err(|error| storage_error("purge", error))?;
        Ok(lot.unwrap_or((0, None)))
    }
}
