//! What a row of SQLite holds.
//!
//! Other programs may write rows, and their texts and numbers may be anything that the columns
//! allow: one such row must not fail a claim.

use std::borrow::Cow;

use outbox_core::MessageId;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, Sqlite, Type};

use crate::rows::{Column, Fields};
use crate::timestamp::Timestamp;

impl Fields for SqliteRow {
    // SQLite does not check that a text is UTF-8.
    fn text<'n>(&self, column: impl Into<Column<'n>>) -> Result<Cow<'_, str>, sqlx::Error> {
        get(self, column).map(String::from_utf8_lossy)
    }

    fn optional_text<'n>(
        &self,
        column: impl Into<Column<'n>>,
    ) -> Result<Option<Cow<'_, str>>, sqlx::Error> {
        let text: Option<&[u8]> = get(self, column)?;
        Ok(text.map(String::from_utf8_lossy))
    }

    fn bytes<'n>(&self, column: impl Into<Column<'n>>) -> Result<Vec<u8>, sqlx::Error> {
        get(self, column)
    }

    fn id<'n>(&self, column: impl Into<Column<'n>>) -> Result<MessageId, sqlx::Error> {
        get(self, column).map(MessageId)
    }

    fn small<'n>(&self, column: impl Into<Column<'n>>) -> Result<i16, sqlx::Error> {
        let value: i64 = get(self, column)?;
        let least = i64::from(i16::MIN);
        Ok(i16::try_from(value.max(least)).unwrap_or(i16::MAX))
    }

    fn deliveries<'n>(&self, column: impl Into<Column<'n>>) -> Result<u32, sqlx::Error> {
        let deliveries: i64 = get(self, column)?;
        Ok(u32::try_from(deliveries.max(0)).unwrap_or(u32::MAX))
    }

    fn instant<'n>(&self, column: impl Into<Column<'n>>) -> Result<Timestamp, sqlx::Error> {
        let millis: i64 = get(self, column)?;
        Ok(Timestamp(millis.saturating_mul(1_000)))
    }
}

fn get<'r, 'n, T: Decode<'r, Sqlite> + Type<Sqlite>>(
    row: &'r SqliteRow,
    column: impl Into<Column<'n>>,
) -> Result<T, sqlx::Error> {
    match column.into() {
        Column::Named(name) => row.try_get(name),
        Column::At(place) => row.try_get(place),
    }
}
