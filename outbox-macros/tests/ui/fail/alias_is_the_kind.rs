extern crate outbox_core as outbox;

use outbox_macros::job;

#[job(kind = "welcome.v2", aliases("welcome", "welcome.v2"))]
async fn welcome(_user: u64) {}

fn main() {}
