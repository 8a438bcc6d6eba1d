extern crate outbox_core as outbox;

use outbox_macros::Message;

#[derive(serde::Serialize, serde::Deserialize, Message)]
#[message(key = self.reference)]
struct OrderPlaced {
    reference: Option<String>,
}

#[derive(serde::Serialize, serde::Deserialize, Message)]
#[message(group = self.1)]
struct OrderMoved(i64, std::option::Option<i64>);

fn enqueue(_: impl outbox_core::IntoDraft) {}

fn main() {
    enqueue(OrderPlaced { reference: None });
    enqueue(OrderMoved(7, None));
}
