extern crate outbox_core as outbox;

use outbox_macros::job;

#[job]
async fn welcome(user: u64) {
    let shared = std::rc::Rc::new(user);
    std::future::ready(()).await;
    drop(shared);
}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<welcome>();
}
