extern crate outbox_core as outbox;

use outbox_macros::job;

#[job(queue = "", max_attempts = 0, colour = "red", lease_ttl = "soon")]
fn welcome(_: &u64, _: impl Iterator<Item = u64>) {}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<welcome>();
    let _ = welcome::job(7);
}
