//! `assert_enqueued!`: whether a message waits in an app.

use std::fmt::Write as _;

use outbox_core::{IntoDraft, MemoryMessage};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{TestApp, checked};

/// Asserts that a message is enqueued in a [`TestApp`], due now or later, and not yet done.
///
/// Either one with this queue, kind and payload, given as it was enqueued, or one whose payload
/// matches a pattern that says its type, as that of a struct does, with the job or message type before
/// it. Fails with what is enqueued.
///
/// ```
/// use outbox::prelude::*;
/// use outbox_testkit::{TestApp, assert_enqueued};
///
/// #[job(queue = "mail")]
/// async fn welcome(name: String) {}
///
/// #[derive(serde::Serialize, serde::Deserialize, Message)]
/// #[message(queue = "orders")]
/// struct OrderPlaced { id: i64, customer: String }
///
/// let app = TestApp::new();
/// app.enqueue(welcome::job("ann".to_owned()));
/// app.enqueue(OrderPlaced { id: 7, customer: "ann".to_owned() });
///
/// assert_enqueued!(app, welcome::job("ann".to_owned()));
/// assert_enqueued!(app, OrderPlaced => OrderPlaced { id: 7, .. });
/// assert_enqueued!(app, OrderPlaced => OrderPlaced { customer, .. } if customer.starts_with('a'));
/// assert_enqueued!(app, welcome => _);
/// ```
#[macro_export]
macro_rules! assert_enqueued {
    ($app:expr, $($of:ident)::+ => _ $(,)?) => {
        $crate::assert_enqueued!(@find $app, $($of)::+, "_", |_| true)
    };
    ($app:expr, $($of:ident)::+ => $payload:pat $(if $guard:expr)? $(,)?) => {
        $crate::assert_enqueued!(
            @find $app, $($of)::+, stringify!($payload $(if $guard)?),
            |payload| match $crate::app::decode(payload) {
                Some($payload) $(if $guard)? => true,
                _ => false,
            }
        )
    };
    (@find $app:expr, $of:path, $pattern:expr, $matches:expr) => {{
        // A message has these from its trait, a job by itself.
        #[allow(unused_imports)]
        use $crate::__private::Message as _;
        $crate::app::assert_found(&$app, <$of>::QUEUE, <$of>::KIND, $pattern, $matches)
    }};
    ($app:expr, $message:expr $(,)?) => {
        $app.assert_enqueued($message)
    };
}

impl TestApp {
    /// Asserts that a message with the queue, kind and payload of this one is enqueued; see
    /// [`assert_enqueued!`](crate::assert_enqueued).
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn assert_enqueued(&self, message: impl IntoDraft) {
        let expected = checked(message);
        let same = |found: &MemoryMessage| {
            let place = *found.queue == *expected.queue && *found.kind == *expected.kind;
            place && same_payload(&found.payload, &expected.payload)
        };
        if !self.messages().iter().any(same) {
            let payload = shown(&expected.payload);
            let what = format!("{} of queue {}: {payload}", expected.kind, expected.queue);
            panic!("not enqueued: {what}\n{}", self.enqueued());
        }
    }

    /// What is enqueued, for the failure of an assertion.
    fn enqueued(&self) -> String {
        let messages = self.messages();
        if messages.is_empty() {
            return "nothing is enqueued".to_owned();
        }
        let mut text = "enqueued is:".to_owned();
        for message in messages {
            let payload = shown(&message.payload);
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "\n  {} of queue {}: {payload}",
                message.kind, message.queue
            );
        }
        text
    }
}

/// A payload as the type of the pattern that it is matched with.
#[doc(hidden)]
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    serde_json::from_slice(payload).ok()
}

#[doc(hidden)]
#[track_caller]
pub fn assert_found(
    app: &TestApp,
    queue: &str,
    kind: &str,
    pattern: &str,
    matches: impl Fn(&[u8]) -> bool,
) {
    let of_kind = |found: &MemoryMessage| *found.queue == *queue && *found.kind == *kind;
    let mut messages = app.messages().into_iter().filter(of_kind);
    if !messages.any(|found| matches(&found.payload)) {
        panic!(
            "not enqueued: {kind} of queue {queue} like {pattern}\n{}",
            app.enqueued()
        );
    }
}

/// JSON is compared by what it says, everything else byte for byte.
fn same_payload(found: &[u8], expected: &[u8]) -> bool {
    let json = |bytes| serde_json::from_slice::<Value>(bytes).ok();
    found == expected || json(found).is_some_and(|found| Some(found) == json(expected))
}

fn shown(payload: &[u8]) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("{} bytes", payload.len()),
    }
}
