//! What a row of SQLite holds, and what a message that comes packed in a text.
//!
//! Other programs may write rows, and their texts and numbers may be anything that the columns
//! allow: one such row must not fail a claim.

use std::borrow::Cow;

use outbox_core::MessageId;
use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, Sqlite, Type};

use super::codec::decode;
use crate::rows::{Column, Fields};
use crate::timestamp::Timestamp;

impl Fields for SqliteRow {
    // SQLite does not check that a text is UTF-8.
    fn text<'n>(&self, column: impl Into<Column<'n>>) -> Result<Cow<'_, str>, sqlx::Error> {
        get(self, column).map(lossy)
    }

    fn optional_text<'n>(
        &self,
        column: impl Into<Column<'n>>,
    ) -> Result<Option<Cow<'_, str>>, sqlx::Error> {
        let text: Option<&[u8]> = get(self, column)?;
        Ok(text.map(lossy))
    }

    fn bytes<'n>(&self, column: impl Into<Column<'n>>) -> Result<Vec<u8>, sqlx::Error> {
        get(self, column)
    }

    fn id<'n>(&self, column: impl Into<Column<'n>>) -> Result<MessageId, sqlx::Error> {
        get(self, column).map(MessageId)
    }

    fn small<'n>(&self, column: impl Into<Column<'n>>) -> Result<i16, sqlx::Error> {
        get(self, column).map(small)
    }

    fn deliveries<'n>(&self, column: impl Into<Column<'n>>) -> Result<u32, sqlx::Error> {
        get(self, column).map(deliveries)
    }

    fn instant<'n>(&self, column: impl Into<Column<'n>>) -> Result<Timestamp, sqlx::Error> {
        get(self, column).map(instant)
    }
}

/// The columns of a message as `pending.sql` packs them, which are asked for by place alone.
pub(super) struct Packed<'j>(pub(super) &'j [Value]);

impl Packed<'_> {
    fn value<'n>(&self, column: impl Into<Column<'n>>) -> Result<&Value, sqlx::Error> {
        match column.into() {
            Column::Named(name) => Err(sqlx::Error::ColumnNotFound(name.to_owned())),
            Column::At(place) => self
                .0
                .get(place)
                .ok_or(sqlx::Error::ColumnIndexOutOfBounds {
                    index: place,
                    len: self.0.len(),
                }),
        }
    }

    fn integer<'n>(&self, column: impl Into<Column<'n>>) -> Result<i64, sqlx::Error> {
        let integer = self.value(column)?.as_i64();
        integer.ok_or_else(|| decode("a packed column is not an integer"))
    }
}

impl Fields for Packed<'_> {
    fn text<'n>(&self, column: impl Into<Column<'n>>) -> Result<Cow<'_, str>, sqlx::Error> {
        let text = self.value(column)?.as_str().map(Cow::Borrowed);
        text.ok_or_else(|| decode("a packed column is not a text"))
    }

    fn optional_text<'n>(
        &self,
        column: impl Into<Column<'n>>,
    ) -> Result<Option<Cow<'_, str>>, sqlx::Error> {
        Ok(self.value(column)?.as_str().map(Cow::Borrowed))
    }

    fn bytes<'n>(&self, column: impl Into<Column<'n>>) -> Result<Vec<u8>, sqlx::Error> {
        let text = self.text(column)?;
        bytes(&text).ok_or_else(|| decode("a packed column is not hexadecimal"))
    }

    fn id<'n>(&self, column: impl Into<Column<'n>>) -> Result<MessageId, sqlx::Error> {
        self.integer(column).map(MessageId)
    }

    fn small<'n>(&self, column: impl Into<Column<'n>>) -> Result<i16, sqlx::Error> {
        self.integer(column).map(small)
    }

    fn deliveries<'n>(&self, column: impl Into<Column<'n>>) -> Result<u32, sqlx::Error> {
        self.integer(column).map(deliveries)
    }

    fn instant<'n>(&self, column: impl Into<Column<'n>>) -> Result<Timestamp, sqlx::Error> {
        self.integer(column).map(instant)
    }
}

fn small(value: i64) -> i16 {
    let least = i64::from(i16::MIN);
    i16::try_from(value.max(least)).unwrap_or(i16::MAX)
}

fn deliveries(value: i64) -> u32 {
    u32::try_from(value.max(0)).unwrap_or(u32::MAX)
}

fn instant(millis: i64) -> Timestamp {
    Timestamp(millis.saturating_mul(1_000))
}

/// Reads hexadecimal digits.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    // An `Option` of a `Vec` would be collected without knowing its size.
    let mut bytes = Vec::with_capacity(pairs.len());
    for &[high, low] in pairs {
        bytes.push(digit(high)? << 4 | digit(low)?);
    }
    Some(bytes)
}

const fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'A'..=b'F' => Some(letter - b'A' + 10),
        _ => None,
    }
}

/// As `String::from_utf8_lossy`, and several times as fast for what is UTF-8.
fn lossy(text: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(text) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(text),
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
