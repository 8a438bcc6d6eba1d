extern crate outbox_core as outbox;

use outbox_macros::job;

#[job]
async fn welcome(user: NewUser) {
    std::future::ready(()).await;
    drop(user);
}

#[derive(serde::Serialize, serde::Deserialize)]
struct NewUser {
    id: u64,
    #[serde(skip)]
    cache: std::cell::RefCell<u64>,
    #[serde(skip)]
    shared: Option<std::rc::Rc<u64>>,
}

fn register<H: outbox_core::Handler>() {}

fn main() {
    register::<welcome>();
}
