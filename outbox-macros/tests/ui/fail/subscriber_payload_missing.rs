extern crate outbox_core as outbox;

use outbox_macros::subscriber;

#[subscriber(queue = "orders")]
async fn reserve() {}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<reserve>();
}
