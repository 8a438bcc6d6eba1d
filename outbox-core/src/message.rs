//! Messages on their way in: the `Message` trait, the draft a producer refines, and the checks
//! that run before anything reaches a database. Pure; what comes out of a storage is in
//! `storage.rs`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind};

/// The identity of a stored message: positive, given by the storage, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub i64);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({})", self.0)
    }
}

/// Text headers of a message, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub BTreeMap<String, String>);

impl Headers {
    /// The value of `name`, if the message has it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// When a message becomes available. Complete, as [`Verdict`](crate::Verdict) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// At once.
    Now,
    /// After this time, counted by the storage's clock from the moment of the insert.
    After(Duration),
    /// At this instant, which the caller read from a clock it trusts.
    At(SystemTime),
}

/// Attempts of a message for which nobody set another number.
pub const DEFAULT_MAX_ATTEMPTS: u16 = 10;
/// Longest queue, kind, key, group, tag, content type or header name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Largest sum of header names and values, in bytes.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Largest payload where a producer sets no other limit: 1 MiB.
pub const DEFAULT_MAX_PAYLOAD_BYTES: usize = 1024 * 1024;
/// The most urgent and the least urgent priority; 0 is the default, smaller runs first.
pub const PRIORITIES: std::ops::RangeInclusive<i16> = -3..=3;
/// Content type of the default encoding.
pub const JSON: &str = "application/json";

/// A type that can be enqueued. Derive it with `#[derive(Message)]`.
///
/// The name in [`KIND`](Message::KIND) is stored with every message, so it is written out and
/// never follows the Rust path: renaming or moving the type does not orphan stored messages.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    label = "this type cannot be enqueued or listened to",
    note = "add `#[derive(Serialize, Deserialize, Message)]` to `{Self}`"
)]
pub trait Message: Serialize + DeserializeOwned + Send + 'static {
    /// The stored name of this type of message.
    const KIND: &'static str;
    /// The queue it goes to unless the draft says otherwise.
    const QUEUE: &'static str;
    /// Attempts it gets unless the draft says otherwise.
    const MAX_ATTEMPTS: u16 = DEFAULT_MAX_ATTEMPTS;

    /// Stored names this type had before; a subscriber handles them as well.
    #[must_use]
    fn aliases() -> &'static [&'static str] {
        &[]
    }

    /// The group of this message. It is stored with the message and handed to the handler, and
    /// does not order anything yet: messages of a group run side by side like any others. Order
    /// per group is for a later release.
    fn group(&self) -> Option<String> {
        None
    }

    /// The deduplication key of this message: at most one message of a queue and key is live.
    ///
    /// Transactions that enqueue the same keys in different orders can deadlock, like any that
    /// lock the same things in different orders; the database then aborts one of them. Enqueue
    /// keyed messages in one order everywhere, such as sorted by key.
    fn key(&self) -> Option<String> {
        None
    }

    /// A draft that can be refined before it is enqueued.
    fn draft(self) -> Draft
    where
        Self: Sized,
    {
        Draft::of_message(&self)
    }

    /// A draft that becomes available after `delay`.
    fn after(self, delay: Duration) -> Draft
    where
        Self: Sized,
    {
        self.draft().after(delay)
    }

    /// A draft that becomes available at `instant`.
    fn at(self, instant: SystemTime) -> Draft
    where
        Self: Sized,
    {
        self.draft().at(instant)
    }
}

/// A message ready to be written: what a storage's enqueue receives. It has passed the checks of
/// [`Draft::check`].
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewMessage {
    /// Where it goes.
    pub queue: Cow<'static, str>,
    /// What it is.
    pub kind: Cow<'static, str>,
    /// Its content, byte for byte.
    pub payload: Vec<u8>,
    /// How the content is encoded.
    pub content_type: Cow<'static, str>,
    /// Text for the handler and for tracing.
    pub headers: Headers,
    /// Smaller runs first, within [`PRIORITIES`].
    pub priority: i16,
    /// At most one live message for each queue and key.
    pub key: Option<String>,
    /// Its group: stored, and not ordered yet; see [`Message::group`].
    pub group: Option<String>,
    /// The caller's own reference: a tenant, a user, an order.
    pub tag: Option<String>,
    /// How often it may run.
    pub max_attempts: u16,
    /// When it becomes available.
    pub due: Due,
}

impl NewMessage {
    /// A message with defaults in every place but these.
    pub fn new(
        queue: impl Into<Cow<'static, str>>,
        kind: impl Into<Cow<'static, str>>,
        payload: impl Into<Vec<u8>>,
    ) -> Self {
        Self {
            queue: queue.into(),
            kind: kind.into(),
            payload: payload.into(),
            content_type: Cow::Borrowed(JSON),
            headers: Headers::default(),
            priority: 0,
            key: None,
            group: None,
            tag: None,
            max_attempts: DEFAULT_MAX_ATTEMPTS,
            due: Due::Now,
        }
    }
}

impl fmt::Debug for NewMessage {
    /// The payload is left out: it may hold personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewMessage")
            .field("queue", &self.queue)
            .field("kind", &self.kind)
            .field("payload_bytes", &self.payload.len())
            .field("priority", &self.priority)
            .field("max_attempts", &self.max_attempts)
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}

/// A message that can still be refined. Errors of encoding are kept until it is enqueued, so that
/// the calls chain.
///
/// ```
/// use std::time::Duration;
/// use outbox_core::Draft;
///
/// let draft = Draft::json("mail", "welcome", &"ann@example.org")
///     .after(Duration::from_secs(300))
///     .key("welcome-ann")
///     .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
/// # assert!(draft.check(1024).is_ok());
/// ```
#[derive(Debug)]
#[must_use = "a draft is written only when it is enqueued"]
pub struct Draft(Result<NewMessage, Error>);

impl Draft {
    /// A draft of raw bytes; set [`content_type`](Self::content_type) to say what they are.
    pub fn bytes(
        queue: impl Into<Cow<'static, str>>,
        kind: impl Into<Cow<'static, str>>,
        payload: impl Into<Vec<u8>>,
    ) -> Self {
        Self(Ok(NewMessage::new(queue, kind, payload))).content_type("application/octet-stream")
    }

    /// A draft whose payload is `value` as JSON.
    pub fn json<T: Serialize + ?Sized>(
        queue: impl Into<Cow<'static, str>>,
        kind: impl Into<Cow<'static, str>>,
        value: &T,
    ) -> Self {
        let kind = kind.into();
        Self(match serde_json::to_vec(value) {
            Ok(payload) => Ok(NewMessage::new(queue, kind, payload)),
            Err(source) => Err(Error::new(
                ErrorKind::Codec,
                "enqueue",
                format!("a payload of kind {kind:?} cannot be written as JSON"),
            )
            .with_source(source)),
        })
    }

    fn of_message<M: Message>(message: &M) -> Self {
        let mut draft = Self::json(M::QUEUE, M::KIND, message).max_attempts(M::MAX_ATTEMPTS);
        if let Ok(new) = &mut draft.0 {
            new.group = message.group();
            new.key = message.key();
        }
        draft
    }

    /// Sends it to another queue.
    pub fn queue(self, queue: impl Into<Cow<'static, str>>) -> Self {
        self.with(|new| new.queue = queue.into())
    }

    /// Makes it available after `delay`, counted by the storage's clock.
    pub fn after(self, delay: Duration) -> Self {
        self.with(|new| new.due = Due::After(delay))
    }

    /// Makes it available at `instant`. Prefer [`after`](Self::after): this one trusts the
    /// caller's clock.
    pub fn at(self, instant: SystemTime) -> Self {
        self.with(|new| new.due = Due::At(instant))
    }

    /// Adds a header; a later value of the same name wins.
    pub fn header(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(|new| {
            new.headers.0.insert(name.into(), value.into());
        })
    }

    /// Keeps at most one live message of this key in its queue. A second one is not written while
    /// the first is waiting or running.
    pub fn key(self, key: impl Into<String>) -> Self {
        self.with(|new| new.key = Some(key.into()))
    }

    /// Sets the group, which is stored and not ordered yet; see [`Message::group`].
    pub fn group(self, group: impl Into<String>) -> Self {
        self.with(|new| new.group = Some(group.into()))
    }

    /// Sets the caller's own reference.
    pub fn tag(self, tag: impl Into<String>) -> Self {
        self.with(|new| new.tag = Some(tag.into()))
    }

    /// Sets the priority, from -3 (first) to 3 (last).
    pub fn priority(self, priority: i16) -> Self {
        self.with(|new| new.priority = priority)
    }

    /// Sets how often it may run, at least once.
    pub fn max_attempts(self, max_attempts: u16) -> Self {
        self.with(|new| new.max_attempts = max_attempts)
    }

    /// Says how the payload is encoded.
    pub fn content_type(self, content_type: impl Into<Cow<'static, str>>) -> Self {
        self.with(|new| new.content_type = content_type.into())
    }

    fn with(mut self, change: impl FnOnce(&mut NewMessage)) -> Self {
        if let Ok(new) = &mut self.0 {
            change(new);
        }
        self
    }

    /// Ends the draft: encodes and checks it. Every producer calls this before it sends a
    /// statement, so that a refused message leaves the caller's transaction usable.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidMessage`] naming the field and its limit, or [`ErrorKind::Codec`].
    pub fn check(self, max_payload_bytes: usize) -> Result<NewMessage, Error> {
        let new = self.0?;
        check_name("queue", &new.queue)?;
        check_name("kind", &new.kind)?;
        check_name("content type", &new.content_type)?;
        for (field, value) in [("key", &new.key), ("group", &new.group), ("tag", &new.tag)] {
            if let Some(value) = value {
                check_name(field, value)?;
            }
        }
        check_headers(&new.headers)?;
        if new.payload.len() > max_payload_bytes {
            return Err(invalid(format!(
                "the payload has {} bytes, the limit is {max_payload_bytes}; store large content \
                 elsewhere and enqueue a reference, or raise max_payload_bytes of the producer",
                new.payload.len()
            )));
        }
        if new.max_attempts == 0 || new.max_attempts > i16::MAX.unsigned_abs() {
            return Err(invalid(format!(
                "max_attempts is {}, and must be from 1 to 32767",
                new.max_attempts
            )));
        }
        if !PRIORITIES.contains(&new.priority) {
            return Err(invalid(format!(
                "priority is {}, and must be from -3 to 3",
                new.priority
            )));
        }
        check_due(new.due)?;
        Ok(new)
    }
}

/// What can be enqueued: a [`Message`] or a [`Draft`].
pub trait IntoDraft {
    /// Turns it into a draft.
    fn into_draft(self) -> Draft;
}

impl<M: Message> IntoDraft for M {
    fn into_draft(self) -> Draft {
        self.draft()
    }
}

impl IntoDraft for Draft {
    fn into_draft(self) -> Draft {
        self
    }
}

/// Checks a name: at most [`MAX_NAME_BYTES`], no NUL, and something other than whitespace in it.
///
/// # Errors
/// [`ErrorKind::InvalidMessage`] naming `field`.
pub fn check_name(field: &str, value: &str) -> Result<(), Error> {
    if value.is_empty() {
        return Err(invalid(format!("the {field} is empty")));
    }
    if value.trim().is_empty() {
        return Err(invalid(format!(
            "the {field} is only whitespace, and needs a character that can be seen"
        )));
    }
    if value.len() > MAX_NAME_BYTES {
        return Err(invalid(format!(
            "the {field} has {} bytes, the limit is {MAX_NAME_BYTES}",
            value.len()
        )));
    }
    if value.contains('\0') {
        return Err(invalid(format!("the {field} contains a NUL character")));
    }
    Ok(())
}

fn check_headers(headers: &Headers) -> Result<(), Error> {
    let mut bytes = 0;
    for (name, value) in &headers.0 {
        check_name("header name", name)?;
        if value.contains('\0') {
            return Err(invalid(format!(
                "the header {name:?} contains a NUL character"
            )));
        }
        bytes += name.len() + value.len();
    }
    if bytes > MAX_HEADER_BYTES {
        return Err(invalid(format!(
            "the headers have {bytes} bytes, the limit is {MAX_HEADER_BYTES}"
        )));
    }
    Ok(())
}

fn check_due(due: Due) -> Result<(), Error> {
    let far = match due {
        Due::Now => false,
        Due::After(delay) => delay > crate::retry::MAX_DELAY,
        Due::At(instant) => {
            let from_epoch = match instant.duration_since(SystemTime::UNIX_EPOCH) {
                Ok(later) => later,
                Err(earlier) => earlier.duration(),
            };
            from_epoch > crate::retry::MAX_DELAY.saturating_mul(3)
        }
    };
    if far {
        return Err(invalid(
            "the due time is more than 100 years ahead or outside the years 1670 to 2270"
                .to_owned(),
        ));
    }
    Ok(())
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidMessage, "enqueue", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> Draft {
        Draft::json("mail", "welcome", &7)
    }

    fn refusal(draft: Draft) -> String {
        let error = draft.check(100).expect_err("the draft must be refused");
        assert_eq!(error.kind(), ErrorKind::InvalidMessage);
        error.to_string()
    }

    #[test]
    fn a_plain_draft_has_the_documented_defaults() {
        let new = draft().check(100).expect("it is valid");
        assert_eq!(new.payload, b"7");
        assert_eq!(new.content_type, "application/json");
        assert_eq!(new.max_attempts, 10);
        assert_eq!(new.priority, 0);
        assert_eq!(new.due, Due::Now);
        assert_eq!((new.key, new.group, new.tag), (None, None, None));
    }

    #[test]
    fn nul_is_refused_in_every_text() {
        for bad in [
            draft().queue("a\0b"),
            Draft::json("mail", "k\0", &1),
            draft().key("\0"),
            draft().group("g\0"),
            draft().tag("t\0"),
            draft().content_type("c\0"),
            draft().header("name\0", "v"),
            draft().header("name", "v\0"),
        ] {
            assert!(refusal(bad).contains("NUL"));
        }
    }

    #[test]
    fn sizes_are_refused_one_past_the_limit_and_accepted_at_it() {
        let name = "n".repeat(255);
        assert!(draft().queue(name.clone()).key(name).check(100).is_ok());
        assert!(refusal(draft().queue("n".repeat(256))).contains("queue has 256 bytes"));
        assert!(refusal(draft().queue("")).contains("queue is empty"));
        assert!(refusal(draft().key("ä".repeat(128))).contains("key has 256 bytes"));
        assert!(Draft::bytes("q", "k", vec![0; 100]).check(100).is_ok());
        let refused = refusal(Draft::bytes("q", "k", vec![0; 101]));
        assert!(refused.contains("101 bytes, the limit is 100"), "{refused}");
        assert!(refusal(draft().header("h", "v".repeat(65_536))).contains("65537 bytes"));
        assert!(draft().header("h", "v".repeat(65_535)).check(100).is_ok());
    }

    #[test]
    fn names_of_nothing_but_whitespace_are_refused_and_whitespace_within_is_kept() {
        for blank in [" ", "\t\r\n", "\u{a0}\u{2003}"] {
            for (bad, field) in [
                (draft().queue(blank), "queue"),
                (Draft::json("mail", blank, &1), "kind"),
                (draft().content_type(blank), "content type"),
                (draft().key(blank), "key"),
                (draft().group(blank), "group"),
                (draft().tag(blank), "tag"),
                (draft().header(blank, "v"), "header name"),
            ] {
                let refused = refusal(bad);
                let expected = format!(
                    "the {field} is only whitespace, and needs a character that can be seen"
                );
                assert!(refused.starts_with(&expected), "{refused}");
            }
        }
        let kept = draft().queue(" mail room ").header("h", " ").check(100);
        let kept = kept.expect("it can be seen");
        assert_eq!(
            (&*kept.queue, kept.headers.get("h")),
            (" mail room ", Some(" "))
        );
    }

    #[test]
    fn a_payload_that_is_too_large_is_refused_with_the_setting_that_allows_it() {
        let refused = refusal(Draft::bytes("q", "k", vec![0; 101]));
        assert!(
            refused.starts_with("the payload has 101 bytes, the limit is 100; ")
                && refused.contains("max_payload_bytes"),
            "{refused}"
        );
    }

    #[test]
    fn attempts_priority_and_due_have_ranges() {
        assert!(refusal(draft().max_attempts(0)).contains("max_attempts is 0"));
        assert!(refusal(draft().max_attempts(32_768)).contains("32768"));
        assert!(draft().max_attempts(32_767).check(100).is_ok());
        assert!(refusal(draft().priority(4)).contains("priority is 4"));
        assert!(refusal(draft().priority(-4)).contains("priority is -4"));
        assert!(refusal(draft().after(Duration::MAX)).contains("due time"));
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(20_000_000_000);
        assert!(refusal(draft().at(far)).contains("due time"));
    }

    #[test]
    fn an_encoding_error_is_kept_until_the_check() {
        let unencodable = std::collections::HashMap::from([(vec![1_u8], 1)]);
        let error = Draft::json("q", "k", &unencodable)
            .key("still-chains")
            .check(100)
            .expect_err("JSON keys are text");
        assert_eq!(error.kind(), ErrorKind::Codec);
        assert!(error.advice().contains("nothing was written"), "{error}");
    }

    #[test]
    fn debug_leaves_the_payload_out() {
        let new = Draft::json("q", "k", "secret").check(100).expect("valid");
        assert!(!format!("{new:?}").contains("secret"));
    }
}
