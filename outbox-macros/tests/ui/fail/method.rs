extern crate outbox_core as outbox;

use outbox_macros::job;

struct Mailer;

impl Mailer {
    #[job]
    async fn welcome(&self, user: u64) {
        drop(user);
    }
}

fn main() {}
