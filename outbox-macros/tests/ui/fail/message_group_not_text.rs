extern crate outbox_core as outbox;

use outbox_macros::Message;

#[derive(serde::Serialize, serde::Deserialize, Message)]
#[message(group = self.ids)]
struct OrderPlaced {
    ids: Vec<i64>,
}

fn main() {}
