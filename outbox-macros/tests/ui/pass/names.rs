//! The expansion's own names do not collide with the user's.

extern crate outbox_core as outbox;

use outbox_core::{Handler, IntoOutcome, Lease};
use outbox_macros::job;

#[job]
async fn context(_: u64, _: Lease) {}

#[job]
async fn payload(payload: String) {
    drop(payload);
}

#[job]
async fn value(_: u64, _: Lease) {}

#[job]
async fn requirements(_: u64, _: Lease) {}

#[job]
async fn job(_: u64) {}

#[job]
async fn r#match(_: u64) {}

mod shadowed {
    #![allow(non_camel_case_types, dead_code)]

    struct Option;
    struct Result;
    struct String;
    struct Box;
    mod std {}
    mod core {}

    #[outbox_macros::job]
    pub(super) async fn plain(_: u64) {}
}

#[job(crate = outbox_core)]
async fn by_path(_: u64) -> impl IntoOutcome {}

#[job(crate = "outbox_core")]
async fn by_text(_: u64) -> std::result::Result<(), std::io::Error> {
    Ok(())
}

mod reexported {
    pub(super) use outbox_core as queueing;
}

#[job(crate = crate::reexported::queueing)]
async fn by_reexport(_: u64) {}

macro_rules! jobs {
    ($($name:ident($payload:ty) in $queue:literal after $ttl:expr;)*) => {
        $(
            #[job(queue = $queue, lease_ttl_seconds = $ttl, max_attempts = 3)]
            async fn $name(payload: $payload) {
                drop(payload);
            }
        )*
    };
}

jobs! {
    from_macro(Vec<u64>) in "mail" after 30;
    from_macro_too((u64, String)) in "post" after 60;
}

fn register<H: Handler>() -> &'static str {
    H::definition().name
}

fn main() {
    #[job]
    async fn local(_: u64) {}

    assert_eq!(register::<context>(), "context");
    assert_eq!(register::<payload>(), "payload");
    assert_eq!(register::<value>(), "value");
    assert_eq!(register::<requirements>(), "requirements");
    assert_eq!(register::<job>(), "job");
    assert_eq!(register::<r#match>(), "match");
    assert_eq!(r#match::KIND, "match");
    assert_eq!(register::<shadowed::plain>(), "plain");
    assert_eq!(register::<by_path>(), "by_path");
    assert_eq!(register::<by_text>(), "by_text");
    assert_eq!(register::<by_reexport>(), "by_reexport");
    assert_eq!(register::<from_macro>(), "from_macro");
    assert_eq!(from_macro_too::QUEUE, "post");
    assert_eq!(register::<local>(), "local");
    let _ = payload::job("ann".to_owned());
}
