extern crate outbox_core as outbox;

use outbox_macros::job;

#[job(aliases("old", "old"))]
async fn welcome(_user: u64) {}

fn main() {}
