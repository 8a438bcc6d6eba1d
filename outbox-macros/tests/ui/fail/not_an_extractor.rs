extern crate outbox_core as outbox;

use outbox_core::Lease;
use outbox_macros::job;

#[job]
async fn welcome(user: u64, name: String, lease: Lease) {
    drop((user, name, lease));
}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<welcome>();
    let _ = welcome::job(7);
}
