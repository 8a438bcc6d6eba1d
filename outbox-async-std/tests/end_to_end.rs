//! From the caller's transaction to the handler: async-std on every database, with no tokio in
//! the build.

use std::sync::Arc;

use outbox_async_std::AsyncStdRuntime;
use outbox_end_to_end::{Postgres, Sqlite};

mod postgres {
    use super::*;

    outbox_end_to_end::suite!(
        Postgres,
        Arc::new(AsyncStdRuntime),
        block_on = async_std::task::block_on
    );
}

mod sqlite {
    use super::*;

    outbox_end_to_end::suite!(
        Sqlite,
        Arc::new(AsyncStdRuntime),
        block_on = async_std::task::block_on
    );
}
