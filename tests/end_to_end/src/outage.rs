//! What a worker outlives: the end of its sessions, and handlers that block its runtime.

use std::collections::BTreeSet;
use std::future::ready;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use async_lock::Semaphore;
use futures_channel::mpsc::{UnboundedReceiver, unbounded};
use futures_channel::oneshot;
use futures_util::stream::StreamExt;
use outbox::Health;
use outbox::prelude::*;

use crate::backend::{Backend, Ending};
use crate::support::{Leg, POLL, Teller};

/// Waits for a permit of the test before it ends.
#[job(queue = "work")]
async fn work(
    name: String,
    Data(told): Data<Teller>,
    Data(permits): Data<Semaphore>,
) -> outbox::Result {
    told.unbounded_send(name)?;
    permits.acquire().await.forget();
    Ok(())
}

/// Waits until each of these names was told, some of them twice if need be.
async fn all_told<B: Backend>(
    leg: &Leg<B>,
    told: &mut UnboundedReceiver<String>,
    mut names: BTreeSet<String>,
) {
    while !names.is_empty() {
        let name = leg.within("all have run", told.next()).await;
        names.remove(&name.expect("the worker runs"));
    }
}

/// The outage begins while there are outcomes to be written, which are not lost. The worker polls
/// every ten minutes: it connects and listens again by itself.
pub async fn a_worker_outlives_an_outage_of_its_database<B: Backend>(leg: Leg<B>) {
    let (teller, mut told) = unbounded();
    let permits = Arc::new(Semaphore::new(0));
    let worker = leg.worker().await.data::<Teller>(teller);
    let worker = worker.shared_data(Arc::clone(&permits)).poll_interval(POLL);
    let running = leg.start(worker.register::<work>());
    leg.until_listening().await;
    for round in ["before", "after"] {
        let names: BTreeSet<String> = (0..8).map(|n| format!("{round} {n}")).collect();
        let drafts = names.iter().cloned().map(work::job).collect();
        leg.backend.enqueue(drafts, Ending::Commit).await;
        all_told(&leg, &mut told, names).await;
        if round == "before" {
            let outage = leg.backend.outage().await;
            permits.add_permits(8);
            if outage.lasts() {
                let health = || running.handle.health();
                let degraded = || ready(matches!(health(), Health::Degraded { .. }));
                leg.until("it is noticed", degraded).await;
            }
        }
    }
    permits.add_permits(8);
    let all_settled = async || leg.backend.messages().await == 0;
    leg.until("all is settled", all_settled).await;
    assert_eq!(running.handle.health(), Health::Healthy);
    let report = leg.stop(running).await;
    assert_eq!((report.done, report.lease_lost), (16, 0));
}

const LEASE_TTL: Duration = Duration::from_secs(2);

/// Blocks its thread until the gate is open.
#[job(queue = "blocking", lease_ttl = "2s")]
async fn block(_: (), Data(gate): Data<Gate>) -> outbox::Result {
    gate.pass();
    Ok(())
}

#[derive(Default)]
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        let is_open = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.opened.wait_while(is_open, |is_open| !*is_open));
    }
}

/// Opens the gate when it is dropped, so that a failure does not hang.
struct Opener(Arc<Gate>);

impl Drop for Opener {
    fn drop(&mut self) {
        *self
            .0
            .is_open
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.0.opened.notify_all();
    }
}

/// The heartbeat renews from its own thread and connection, until the first lease would be over.
pub async fn handlers_that_block_every_thread_keep_their_leases<B: Backend>(leg: Leg<B>) {
    // More than any runtime has threads, except one that has a thread for each task.
    let drafts = (0..64).map(|_| block::job(())).collect();
    leg.backend.enqueue(drafts, Ending::Commit).await;
    let gate = Arc::new(Gate::default());
    let worker = leg.worker().await.shared_data(Arc::clone(&gate));
    let worker = worker.concurrency(64).register::<block>();

    let (sender, was_renewed) = oneshot::channel();
    let (watching, opener) = (leg.clone(), Opener(gate));
    let watch = async move {
        watching.until_renewed(LEASE_TTL).await;
        // The test waits, unless it has failed.
        let _ = sender.send(());
        drop(opener);
    };
    leg.runtime
        .spawn_thread("watch", Box::pin(watch))
        .expect("a thread can be started");
    let report = leg.run_until_idle(worker).await;
    was_renewed.await.expect("the leases were renewed");
    assert_eq!(
        (report.done, report.lease_lost, report.reclaimed),
        (64, 0, 0)
    );
}
