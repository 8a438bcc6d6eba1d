extern crate outbox_core as outbox;

use outbox_core::Lease;
use outbox_macros::job;

#[job]
async fn welcome(user: u64, lease: &Lease) {
    drop((user, lease.fence()));
}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<welcome>();
}
