extern crate outbox_core as outbox;

use outbox_macros::job;

#[job]
async fn welcome(users: &mut Vec<u64>) {
    users.clear();
}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<welcome>();
}
