use outbox_macros::job;

#[job]
async fn welcome(_user: u64) {}

fn main() {}
