extern crate outbox_core as outbox;

use outbox_macros::job;

#[job]
async fn welcome(user: u64) -> bool {
    user > 0
}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<welcome>();
}
