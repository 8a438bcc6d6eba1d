//! From the caller's transaction to the handler: tokio on every database.

use std::sync::Arc;

use outbox_end_to_end::{Postgres, Sqlite};
use outbox_tokio::TokioRuntime;

mod postgres {
    use super::*;

    outbox_end_to_end::suite!(
        Postgres,
        Arc::new(TokioRuntime::current()),
        block_on = block_on
    );
}

mod sqlite {
    use super::*;

    outbox_end_to_end::suite!(
        Sqlite,
        Arc::new(TokioRuntime::current()),
        block_on = block_on
    );
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be started")
        .block_on(future)
}
