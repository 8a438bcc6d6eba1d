extern crate outbox_core as outbox;

use outbox_macros::Message;

#[derive(Message)]
union OrderPlaced {
    id: i64,
}

fn main() {}
