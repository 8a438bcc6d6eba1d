//! The seam is real: a runtime of thirty lines passes the suite that the adapters pass.

#[path = "support/threads.rs"]
mod threads;

use std::sync::Arc;

use futures::executor::block_on;
use threads::Threads;

outbox_testkit::runtime_suite!(Arc::new(Threads), block_on = block_on);
