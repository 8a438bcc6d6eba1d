extern crate outbox_core as outbox;

use outbox_macros::job;

#[job]
async fn welcome(user: Option<&str>) {
    drop(user);
}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<welcome>();
}
