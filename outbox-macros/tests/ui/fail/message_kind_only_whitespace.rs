extern crate outbox_core as outbox;

use outbox_macros::Message;

#[derive(serde::Serialize, serde::Deserialize, Message)]
#[message(kind = "\t", queue = "\u{2003}", aliases(" "))]
struct OrderPlaced {
    id: i64,
}

fn main() {}
