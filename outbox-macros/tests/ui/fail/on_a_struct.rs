extern crate outbox_core as outbox;

use outbox_macros::job;

#[job(queue = "mail")]
struct Welcome {
    user: u64,
}

fn main() {
    drop(Welcome { user: 7 }.user);
}
