extern crate outbox_core as outbox;

use outbox_macros::job;

#[job(queue = "mail", max_attempts = 3, queue = "post")]
async fn welcome(_user: u64) {}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<welcome>();
    let _ = welcome::job(7);
}
