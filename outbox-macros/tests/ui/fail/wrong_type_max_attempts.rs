extern crate outbox_core as outbox;

use outbox_macros::job;

#[job(max_attempts = "8")]
async fn welcome(_user: u64) {}

fn main() {}
