//! From the caller's transaction to the handler: a runtime of thirty lines on every database.

#[path = "../../../outbox-testkit/tests/support/threads.rs"]
mod threads;

use std::sync::Arc;

use futures::executor::block_on;
use outbox_end_to_end::{Postgres, Sqlite};
use threads::Threads;

mod postgres {
    use super::*;

    outbox_end_to_end::suite!(Postgres, Arc::new(Threads), block_on = block_on);
}

mod sqlite {
    use super::*;

    outbox_end_to_end::suite!(Sqlite, Arc::new(Threads), block_on = block_on);
}
