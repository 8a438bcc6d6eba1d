extern crate outbox_core as outbox;

use outbox_macros::job;

#[job(lease_ttl_seconds = "30s")]
async fn welcome(_user: u64) {}

fn main() {}
