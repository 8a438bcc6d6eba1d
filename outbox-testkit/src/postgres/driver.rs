//! What drives the fixture's own connection: one of the runtimes that sqlx is built with.
//!
//! sqlx takes tokio where one has been entered and async-io everywhere else, so a fixture that
//! needed tokio would bring it into the tests of every other runtime.

use std::io;
use std::time::Duration;

use futures_util::future::BoxFuture;

/// Runs a future on the calling thread to its end.
pub(super) type Driver = Box<dyn FnOnce(BoxFuture<'static, ()>) + Send>;

#[cfg(feature = "tokio")]
pub(super) fn driver() -> io::Result<Driver> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(Box::new(move |future| runtime.block_on(future)))
}

/// Awaits `future` for at most `limit`; `None` means that it was dropped unfinished.
#[cfg(feature = "tokio")]
pub(super) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}

#[cfg(all(not(feature = "tokio"), any(feature = "smol", feature = "async-std")))]
pub(super) fn driver() -> io::Result<Driver> {
    Ok(Box::new(async_io::block_on))
}

/// Awaits `future` for at most `limit`; `None` means that it was dropped unfinished.
#[cfg(all(not(feature = "tokio"), any(feature = "smol", feature = "async-std")))]
pub(super) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    use futures_util::future::{Either, select};

    match select(std::pin::pin!(future), async_io::Timer::after(limit)).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}

#[cfg(not(any(feature = "tokio", feature = "smol", feature = "async-std")))]
pub(super) fn driver() -> io::Result<Driver> {
    Err(io::Error::other(
        "no runtime is built in: turn on the feature tokio, smol or async-std of outbox-testkit",
    ))
}

/// Never called: without a driver there is no connection.
#[cfg(not(any(feature = "tokio", feature = "smol", feature = "async-std")))]
pub(super) async fn within<F: Future>(_: Duration, future: F) -> Option<F::Output> {
    Some(future.await)
}

#[cfg(all(
    test,
    not(any(feature = "tokio", feature = "smol", feature = "async-std"))
))]
mod tests {
    use super::super::Server;

    #[test]
    fn without_a_runtime_the_error_names_the_features() {
        let error = Server::connect("postgres://nobody@127.0.0.1:1/none").expect_err("no runtime");
        assert!(format!("{error:?}").contains("tokio, smol or async-std"));
    }
}
