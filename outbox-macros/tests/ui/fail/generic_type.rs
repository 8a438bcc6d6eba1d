extern crate outbox_core as outbox;

use outbox_macros::job;

#[job]
async fn welcome<T: Send>(user: T) {
    drop(user);
}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<welcome>();
    let _ = welcome::job(7);
}
