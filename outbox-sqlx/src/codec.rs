//! Values on the wire: instants as microseconds, delays as intervals, headers as JSON text. Here
//! instead of chrono, whose sqlx feature would change the caller's own types.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use outbox_core::Headers;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::{Oid, PgInterval};
use sqlx::postgres::{
    PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef, Postgres,
};
use sqlx::{Decode, Encode, Type};

/// From the Unix epoch to 2000-01-01, where Postgres counts from.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A `timestamptz`: microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp(pub(crate) i64);

impl Timestamp {
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(instant: SystemTime) -> Self {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(match instant.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => micros(after),
            Err(before) => -micros(before.duration()),
        })
    }
}

impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        let distance = Duration::from_micros(timestamp.0.unsigned_abs());
        let instant = if timestamp.0 < 0 {
            Self::UNIX_EPOCH.checked_sub(distance)
        } else {
            Self::UNIX_EPOCH.checked_add(distance)
        };
        // Postgres' infinities and its year 290000 are beyond some platforms' clocks.
        instant.unwrap_or(Self::UNIX_EPOCH)
    }
}

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

/// Headers as JSON, `None` where there are none.
pub(crate) fn headers_json(headers: &Headers) -> Option<String> {
    if headers.is_empty() {
        return None;
    }
    let object = headers
        .0
        .iter()
        .map(|(name, value)| (name.clone(), serde_json::Value::from(value.as_str())))
        .collect::<serde_json::Map<_, _>>();
    Some(serde_json::Value::Object(object).to_string())
}

/// Headers from JSON. Other programs may write messages: a value that is no text is given as its
/// JSON, and what is no object as no headers, because one such message must not fail a claim.
pub(crate) fn headers_from(json: Option<&str>) -> Headers {
    let Some(json) = json else {
        return Headers::default();
    };
    let Ok(serde_json::Value::Object(object)) = serde_json::from_str(json) else {
        return Headers::default();
    };
    Headers(
        object
            .into_iter()
            .map(|(name, value)| match value {
                serde_json::Value::String(text) => (name, text),
                other => (name, other.to_string()),
            })
            .collect::<BTreeMap<_, _>>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_on_both_sides_of_the_epoch_survive() {
        for micros in [-1_500_000, 0, 1, 946_684_800_000_000, 1_800_000_000_123_456] {
            let instant = SystemTime::from(Timestamp(micros));
            assert_eq!(Timestamp::from(instant), Timestamp(micros));
        }
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        assert_eq!(Timestamp(9).since(Timestamp(5)), Duration::from_micros(4));
    }

    #[test]
    fn intervals_round_up_and_saturate() {
        assert_eq!(interval(Duration::from_nanos(1)).microseconds, 1);
        assert_eq!(interval(Duration::from_secs(2)).microseconds, 2_000_000);
        assert_eq!(interval(Duration::MAX).microseconds, 31_622_400_000_000_000);
    }

    #[test]
    fn headers_of_other_programs_do_not_fail() {
        let headers = headers_from(Some(r#"{"a":"x","b":1,"c":null}"#));
        assert_eq!(headers.get("a"), Some("x"));
        assert_eq!(headers.get("b"), Some("1"));
        assert_eq!(headers.get("c"), Some("null"));
        assert!(headers_from(Some("[1]")).is_empty());
        assert!(headers_from(None).is_empty());
    }

    #[test]
    fn headers_are_written_as_a_json_object() {
        let mut headers = Headers::default();
        assert_eq!(headers_json(&headers), None);
        headers.0.insert("a\"b".to_owned(), "c\nd".to_owned());
        assert_eq!(
            headers_json(&headers).as_deref(),
            Some(r#"{"a\"b":"c\nd"}"#)
        );
    }
}
