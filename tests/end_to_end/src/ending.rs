//! How a worker ends: nothing is lost, and nothing waits for a lease.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use async_lock::Semaphore;
use futures_channel::mpsc::unbounded;
use futures_util::stream::StreamExt;
use outbox::prelude::*;

use crate::backend::{Backend, Ending};
use crate::support::{Leg, Teller};

/// Waits for a permit of the test.
#[job(queue = "slow")]
async fn wait(_: (), Data(told): Data<Teller>, Data(permits): Data<Semaphore>) -> outbox::Result {
    told.unbounded_send("began".to_owned())?;
    permits.acquire().await.forget();
    Ok(())
}

/// One handler at a time: the running one is done, the others are given back and run at once.
pub async fn a_shutdown_waits_for_running_handlers_and_leaves_no_lease_behind<B: Backend>(
    leg: Leg<B>,
) {
    let drafts = (0..4).map(|_| wait::job(())).collect();
    leg.backend.enqueue(drafts, Ending::Commit).await;
    let (teller, mut told) = unbounded();
    let permits = Arc::new(Semaphore::new(0));
    let worker = async || {
        let worker = leg.worker().await.data::<Teller>(teller.clone());
        worker
            .shared_data(Arc::clone(&permits))
            .register::<wait>()
            .concurrency(1)
    };
    let running = leg.start(worker().await);
    leg.within("the first begins", told.next()).await;
    running.handle.shutdown();
    permits.add_permits(1);
    let report = leg.stop(running).await;
    assert_eq!((report.started, report.done), (1, 1));
    assert_eq!(leg.backend.messages().await, 3);
    assert_eq!(leg.backend.leased().await, 0);

    permits.add_permits(3);
    let report = leg.run_until_idle(worker().await).await;
    assert_eq!((report.done, report.reclaimed), (3, 0));
}

/// Never ends at its first delivery.
#[job(queue = "slow")]
async fn hang(_: (), attempt: Attempt, lease: Lease, Data(told): Data<Teller>) -> outbox::Result {
    told.unbounded_send(format!(
        "attempt {}, fence {}",
        attempt.number,
        lease.fence()
    ))?;
    if lease.fence() == 1 {
        pending::<()>().await;
    }
    Ok(())
}

/// Without a grace period: the handler is dropped, and no attempt is charged for it.
pub async fn a_handler_that_outlasts_the_grace_is_cancelled_and_its_message_runs_again_at_once<
    B: Backend,
>(
    leg: Leg<B>,
) {
    let drafts = vec![hang::job(())];
    leg.backend.enqueue(drafts, Ending::Commit).await;
    let (teller, mut told) = unbounded();
    let worker = async || {
        let worker = leg.worker().await.data::<Teller>(teller.clone());
        worker.register::<hang>().grace(Duration::ZERO)
    };
    let running = leg.start(worker().await);
    let began = leg.within("it begins", told.next()).await;
    assert_eq!(began.as_deref(), Some("attempt 1, fence 1"));
    let report = leg.stop(running).await;
    assert_eq!((report.done, report.released), (0, 1));
    assert_eq!(leg.backend.leased().await, 0);

    let report = leg.run_until_idle(worker().await).await;
    assert_eq!((report.done, report.reclaimed), (1, 0));
    let again = told.next().await;
    assert_eq!(again.as_deref(), Some("attempt 1, fence 2"));
}
