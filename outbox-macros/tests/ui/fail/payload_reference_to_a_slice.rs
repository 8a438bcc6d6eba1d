extern crate outbox_core as outbox;

use outbox_macros::job;

#[job]
async fn welcome(users: &[u64]) {
    drop(users.len());
}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<welcome>();
}
