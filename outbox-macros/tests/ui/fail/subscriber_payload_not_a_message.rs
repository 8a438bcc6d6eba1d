extern crate outbox_core as outbox;

use outbox_macros::subscriber;

#[subscriber()]
async fn reserve(order: OrderPlaced) {
    drop(order.id);
}

#[derive(serde::Serialize, serde::Deserialize)]
struct OrderPlaced {
    id: i64,
}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<reserve>();
}
