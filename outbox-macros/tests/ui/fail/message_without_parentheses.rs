extern crate outbox_core as outbox;

use outbox_macros::Message;

#[derive(serde::Serialize, serde::Deserialize, Message)]
#[message]
struct OrderPlaced {
    id: i64,
}

fn enqueue(_: impl outbox_core::IntoDraft) {}

fn main() {
    enqueue(OrderPlaced { id: 7 });
}
