extern crate outbox_core as outbox;

use outbox_macros::{Message, subscriber};

#[subscriber(kind = "order.placed")]
async fn reserve(order: OrderPlaced) {
    drop(order.id);
}

#[derive(serde::Serialize, serde::Deserialize, Message)]
struct OrderPlaced {
    id: i64,
}

fn main() {}
