//! Values on Postgres' wire: instants, delays as intervals, and what a row holds.

use std::borrow::Cow;
use std::time::Duration;

use outbox_core::MessageId;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::{Oid, PgInterval};
use sqlx::postgres::{
    PgArgumentBuffer, PgHasArrayType, PgRow, PgTypeInfo, PgValueFormat, PgValueRef, Postgres,
};
use sqlx::{Decode, Encode, Row, Type};

use crate::rows::{Column, Fields};
use crate::timestamp::Timestamp;

/// From the Unix epoch to 2000-01-01, where Postgres counts from.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

impl Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        // timestamptz, in every server's pg_type.
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl PgHasArrayType for Timestamp {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1185))
    }
}

impl Encode<'_, Postgres> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let micros = self.0.saturating_sub(POSTGRES_EPOCH_MICROS);
        <i64 as Encode<Postgres>>::encode_by_ref(&micros, buffer)
    }
}

impl Decode<'_, Postgres> for Timestamp {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => {
                let micros = <i64 as Decode<Postgres>>::decode(value)?;
                Ok(Self(micros.saturating_add(POSTGRES_EPOCH_MICROS)))
            }
            PgValueFormat::Text => Err("a timestamp was sent as text".into()),
        }
    }
}

/// The longest interval sent: 1,000 years. Added to any present time it stays a `timestamptz`.
const MAX_INTERVAL_MICROS: i64 = 1_000 * 366 * 86_400 * 1_000_000;

/// A delay, rounded up to microseconds: a lease or a delay must not end early.
pub(crate) fn interval(duration: Duration) -> PgInterval {
    let micros = duration.as_nanos().div_ceil(1000);
    let micros = i64::try_from(micros).unwrap_or(MAX_INTERVAL_MICROS);
    PgInterval {
        months: 0,
        days: 0,
        microseconds: micros.min(MAX_INTERVAL_MICROS),
    }
}

impl Fields for PgRow {
    fn text<'n>(&self, column: impl Into<Column<'n>>) -> Result<Cow<'_, str>, sqlx::Error> {
        get(self, column).map(Cow::Borrowed)
    }

    fn optional_text<'n>(
        &self,
        column: impl Into<Column<'n>>,
    ) -> Result<Option<Cow<'_, str>>, sqlx::Error> {
        let text: Option<&str> = get(self, column)?;
        Ok(text.map(Cow::Borrowed))
    }

    fn bytes<'n>(&self, column: impl Into<Column<'n>>) -> Result<Vec<u8>, sqlx::Error> {
        get(self, column)
    }

    fn id<'n>(&self, column: impl Into<Column<'n>>) -> Result<MessageId, sqlx::Error> {
        get(self, column).map(MessageId)
    }

    fn small<'n>(&self, column: impl Into<Column<'n>>) -> Result<i16, sqlx::Error> {
        get(self, column)
    }

    fn deliveries<'n>(&self, column: impl Into<Column<'n>>) -> Result<u32, sqlx::Error> {
        let deliveries: i32 = get(self, column)?;
        Ok(u32::try_from(deliveries).unwrap_or(0))
    }

    fn instant<'n>(&self, column: impl Into<Column<'n>>) -> Result<Timestamp, sqlx::Error> {
        get(self, column)
    }
}

/// The types are those of the schema, which `check` has compared: not each value's is compared again.
fn get<'r, 'n, T: Decode<'r, Postgres>>(
    row: &'r PgRow,
    column: impl Into<Column<'n>>,
) -> Result<T, sqlx::Error> {
    match column.into() {
        Column::Named(name) => row.try_get_unchecked(name),
        Column::At(place) => row.try_get_unchecked(place),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_round_up_and_saturate() {
        assert_eq!(interval(Duration::from_nanos(1)).microseconds, 1);
        assert_eq!(interval(Duration::from_secs(2)).microseconds, 2_000_000);
        assert_eq!(interval(Duration::MAX).microseconds, 31_622_400_000_000_000);
    }
}
