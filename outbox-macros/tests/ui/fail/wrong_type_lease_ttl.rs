extern crate outbox_core as outbox;

use outbox_macros::job;

#[job(lease_ttl = 30)]
async fn welcome(_user: u64) {}

fn main() {}
