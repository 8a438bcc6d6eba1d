extern crate outbox_core as outbox;

use outbox_macros::job;

#[job(group = 7)]
async fn welcome(_user: u64) {}

fn main() {}
