extern crate outbox_core as outbox;

use outbox_macros::job;

#[job]
const fn welcome(_user: u64) {}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<welcome>();
}
