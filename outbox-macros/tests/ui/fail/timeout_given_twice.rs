extern crate outbox_core as outbox;

use outbox_macros::job;

#[job(timeout_seconds = 5, timeout = "5s")]
async fn welcome(_user: u64) {}

fn main() {}
