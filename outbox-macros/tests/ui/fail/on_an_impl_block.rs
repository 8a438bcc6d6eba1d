extern crate outbox_core as outbox;

use outbox_macros::job;

#[job()]
impl Mailer {}

struct Mailer;

fn main() {}
