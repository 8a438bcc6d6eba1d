//! What a row of SQLite holds.
//!
//! Other programs may write rows, and their texts and numbers may be anything that the columns
//! allow: one such row must not fail a claim.

use std::borrow::Cow;

use outbox_core::MessageId;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::rows::Fields;
use crate::timestamp::Timestamp;

impl Fields for SqliteRow {
    // SQLite does not check that a text is UTF-8.
    fn text(&self, column: &str) -> Result<Cow<'_, str>, sqlx::Error> {
        self.try_get(column).map(String::from_utf8_lossy)
    }

    fn optional_text(&self, column: &str) -> Result<Option<Cow<'_, str>>, sqlx::Error> {
        let text: Option<&[u8]> = self.try_get(column)?;
        Ok(text.map(String::from_utf8_lossy))
    }

    fn bytes(&self, column: &str) -> Result<Vec<u8>, sqlx::Error> {
        self.try_get(column)
    }

    fn id(&self, column: &str) -> Result<MessageId, sqlx::Error> {
        self.try_get(column).map(MessageId)
    }

    fn small(&self, column: &str) -> Result<i16, sqlx::Error> {
        let value: i64 = self.try_get(column)?;
        let least = i64::from(i16::MIN);
        Ok(i16::try_from(value.max(least)).unwrap_or(i16::MAX))
    }

    fn deliveries(&self) -> Result<u32, sqlx::Error> {
        let deliveries: i64 = self.try_get("deliveries")?;
        Ok(u32::try_from(deliveries.max(0)).unwrap_or(u32::MAX))
    }

    fn instant(&self, column: &str) -> Result<Timestamp, sqlx::Error> {
        let millis: i64 = self.try_get(column)?;
        Ok(Timestamp(millis.saturating_mul(1_000)))
    }
}
