extern crate outbox_core as outbox;

use outbox_macros::job;

#[job]
async fn welcome(user: NewUser) {
    drop(user.id);
}

#[derive(serde::Serialize)]
struct NewUser {
    id: u64,
}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<welcome>();
}
