//! The runtime as a worker meets it: what every runtime owes it.

use std::sync::Arc;

use async_global_executor::GlobalExecutorConfig;
use outbox_async_std::AsyncStdRuntime;

outbox_testkit::runtime_suite!(Arc::new(AsyncStdRuntime), block_on = block_on);

/// With two threads for tasks even where there is one processor.
fn block_on<F: Future>(future: F) -> F::Output {
    // The first call decides, and async-std would make it as soon as it is used.
    let config = GlobalExecutorConfig::default().with_min_threads(2);
    async_global_executor::init_with_config(config);
    async_std::task::block_on(future)
}
