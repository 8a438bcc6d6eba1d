extern crate outbox_core as outbox;

use outbox_macros::job;

#[job(priority = -4)]
async fn welcome(_user: u64) {}

fn main() {}
