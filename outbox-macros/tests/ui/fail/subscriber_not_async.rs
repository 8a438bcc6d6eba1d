extern crate outbox_core as outbox;

use outbox_macros::subscriber;

#[subscriber(queue = "orders")]
fn reserve(order: u64) {
    drop(order);
}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<reserve>();
}
