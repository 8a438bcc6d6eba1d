extern crate outbox_core as outbox;

use outbox_macros::job;

#[job(kind = "wel\0come")]
async fn welcome(_user: u64) {}

fn main() {}
