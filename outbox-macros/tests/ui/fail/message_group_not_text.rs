extern crate outbox_core as outbox;

use outbox_macros::Message;

#[derive(serde::Serialize, serde::Deserialize, Message)]
#[message(group = self.id)]
struct OrderPlaced {
    id: Option<i64>,
}

fn main() {}
