extern crate outbox_core as outbox;

use outbox_macros::job;

#[job]
async fn welcome(user: &str) {
    drop(user.len());
}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<welcome>();
}
