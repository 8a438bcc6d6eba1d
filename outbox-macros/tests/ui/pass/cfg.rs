//! `#[cfg]` on a function or a parameter counts for what is generated from it.

extern crate outbox_core as outbox;

use outbox_core::{Handler, Lease};
use outbox_macros::job;

#[job]
#[cfg(any())]
async fn absent(_: DoesNotExist) {}

#[cfg(any())]
#[outbox_macros::subscriber]
async fn absent_too(_: DoesNotExist) {}

#[job]
async fn partly(_: u64, #[cfg(any())] _: DoesNotExist, #[cfg(all())] lease: Lease) {
    drop(lease);
}

/// The names of what is absent are free.
#[expect(non_camel_case_types)]
#[expect(dead_code)]
struct absent;

fn register<H: Handler>() {}

fn main() {
    register::<partly>();
}
