extern crate outbox_core as outbox;

use outbox_macros::job;

#[job]
async fn welcome<const N: usize>(user: [u8; N]) {
    drop(user);
}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<welcome>();
}
