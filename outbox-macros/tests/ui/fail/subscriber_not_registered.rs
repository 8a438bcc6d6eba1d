#![deny(dead_code)]

extern crate outbox_core as outbox;

use outbox_macros::{Message, subscriber};

#[subscriber]
async fn reserve(order: OrderPlaced) {
    drop(order);
}

#[derive(serde::Serialize, serde::Deserialize, Message)]
struct OrderPlaced {}

fn main() {}
