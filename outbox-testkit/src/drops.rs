//! Dropping futures half-way, at each place where they wait.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

/// More awaits than any future that a test means to drop.
const MOST_AWAITS: usize = 1_000;

/// Polls `future` at most `polls` times, whenever it asks to be polled, and drops it. Returns what
/// it returned, if it came to that.
pub async fn drop_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    poll_up_to(polls, pin!(future)).await
}

/// Polls `future` at most `polls` times, whenever it asks to be polled, and leaves it there.
pub(crate) async fn poll_up_to<F: Future>(
    polls: usize,
    mut future: Pin<&mut F>,
) -> Option<F::Output> {
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Drops a future at every place where it waits: runs what `start` makes and drops it before its
/// first poll, then makes another and drops it after its first, and so on, until one comes to its
/// end. `dropped` looks at what each left behind, and is told after how many polls it was dropped.
/// Returns what the last one returned.
///
/// ```
/// use outbox_testkit::{SimRuntime, drop_at_every_await};
/// # use outbox_core::Runtime;
/// # use std::time::Duration;
///
/// let sim = SimRuntime::new(1);
/// let mut dropped = Vec::new();
/// let answer = sim.block_on(drop_at_every_await(
///     async || {
///         sim.sleep(Duration::from_secs(1)).await;
///         sim.sleep(Duration::from_secs(1)).await;
///         "the end"
///     },
///     async |polls| dropped.push(polls),
/// ));
/// assert_eq!((answer, dropped), ("the end", vec![0, 1, 2]));
/// ```
///
/// # Panics
/// When no future comes to its end within 1,000 polls.
pub async fn drop_at_every_await<T>(
    mut start: impl AsyncFnMut() -> T,
    mut dropped: impl AsyncFnMut(usize),
) -> T {
    for polls in 0..MOST_AWAITS {
        if let Some(output) = drop_after(polls, start()).await {
            return output;
        }
        dropped(polls).await;
    }
    panic!("the future waits more than {MOST_AWAITS} times");
}
