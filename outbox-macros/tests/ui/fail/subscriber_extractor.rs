extern crate outbox_core as outbox;

use outbox_macros::{Message, subscriber};

#[subscriber(queue = "orders")]
async fn reserve(order: OrderPlaced, customers: Vec<i64>) {
    drop((order.id, customers));
}

#[derive(serde::Serialize, serde::Deserialize, Message)]
struct OrderPlaced {
    id: i64,
}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<reserve>();
}
