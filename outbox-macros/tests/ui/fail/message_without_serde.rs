extern crate outbox_core as outbox;

use outbox_macros::Message;

#[derive(Message)]
struct OrderPlaced {
    id: i64,
}

fn main() {}
