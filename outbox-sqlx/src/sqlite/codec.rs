//! Values as SQLite keeps them: instants and delays as milliseconds, lists as JSON.

use std::time::{Duration, SystemTime};

use outbox_core::{Due, LeaseToken, MessageId, NewMessage};
use serde_json::{Value, json};

/// The longest delay sent: 1,000 years. Added to any present time it stays a date.
const MAX_DELAY_MILLIS: i64 = 1_000 * 366 * 86_400 * 1_000;

/// A delay, rounded up: a lease or a delay must not end early.
pub(super) fn millis(duration: Duration) -> i64 {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    let millis = i64::try_from(millis).unwrap_or(MAX_DELAY_MILLIS);
    millis.min(MAX_DELAY_MILLIS)
}

/// An instant as milliseconds since the Unix epoch, rounded up: nothing is due early.
fn instant(instant: SystemTime) -> i64 {
    match instant.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_nanos() / 1_000_000).unwrap_or(i64::MAX),
    }
}

/// When a message is due: so many milliseconds from now, or at this instant.
pub(super) fn due(message: &NewMessage) -> (i64, Option<i64>) {
    match message.due {
        Due::After(delay) => (millis(delay), None),
        Due::At(at) => (0, Some(instant(at))),
        // Now, and any form of a newer core: at once is the reading that loses nothing.
        _ => (0, None),
    }
}

/// A token in hexadecimal: JSON has no bytes.
pub(super) fn hex(token: LeaseToken) -> String {
    token.as_uuid().simple().to_string()
}

/// A list as JSON text.
pub(super) fn list(values: impl IntoIterator<Item = Value>) -> String {
    Value::Array(values.into_iter().collect()).to_string()
}

/// An answer that is not what the statement says.
pub(super) fn decode(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

/// A message that becomes a dead letter, as `bury.sql` reads it. `ended` says when its lease ended,
/// where that is why.
pub(super) fn letter(
    id: MessageId,
    token: &str,
    reason: &str,
    error: Option<&str>,
    ended: Option<i64>,
) -> Value {
    json!([id.0, token, reason, error, ended])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_round_up_and_saturate() {
        assert_eq!(millis(Duration::ZERO), 0);
        assert_eq!(millis(Duration::from_nanos(1)), 1);
        assert_eq!(millis(Duration::from_micros(1_000)), 1);
        assert_eq!(millis(Duration::from_secs(2)), 2_000);
        assert_eq!(millis(Duration::MAX), 31_622_400_000_000);
    }

    #[test]
    fn instants_on_both_sides_of_the_epoch_round_up() {
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(instant(epoch), 0);
        assert_eq!(instant(epoch + Duration::from_micros(1)), 1);
        assert_eq!(instant(epoch + Duration::from_millis(1_500)), 1_500);
        assert_eq!(instant(epoch - Duration::from_micros(1)), 0);
        assert_eq!(instant(epoch - Duration::from_millis(1_500)), -1_500);
    }
}
