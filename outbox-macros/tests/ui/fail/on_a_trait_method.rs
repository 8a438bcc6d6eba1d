extern crate outbox_core as outbox;

use outbox_macros::job;

trait Mailer {
    #[job]
    async fn welcome(user: u64);
}

fn main() {}
