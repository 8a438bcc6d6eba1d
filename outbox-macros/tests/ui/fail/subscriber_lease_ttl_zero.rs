extern crate outbox_core as outbox;

use outbox_macros::{Message, subscriber};

#[subscriber(queue = "orders", lease_ttl_seconds = 0)]
async fn reserve(order: OrderPlaced) {
    drop(order.id);
}

#[derive(serde::Serialize, serde::Deserialize, Message)]
struct OrderPlaced {
    id: i64,
}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<reserve>();
}
