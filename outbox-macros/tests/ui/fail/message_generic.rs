extern crate outbox_core as outbox;

use outbox_macros::Message;

#[derive(serde::Serialize, serde::Deserialize, Message)]
struct OrderPlaced<T> {
    id: T,
}

fn main() {}
