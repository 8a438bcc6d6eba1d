//! The handlers of the simulation: what each run does is decided by the seed, the message and the
//! number of its delivery.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use outbox_core::{
    BoxFuture, Context, Definition, Handler, Lease, LeaseToken, MessageId, Outcome, Requirements,
    RetryPolicy, Runtime,
};
use outbox_testkit::{SimProcess, SimRuntime};

use crate::recorder::{Decision, Recorder};

const MILLISECOND: Duration = Duration::from_millis(1);
/// Until a run that panicked is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// What the handlers of one process share.
pub(crate) struct Script {
    pub(crate) seed: u64,
    pub(crate) sim: SimRuntime,
    pub(crate) process: SimProcess,
    pub(crate) recorder: Recorder,
    pub(crate) runs: Runs,
}

/// The handlers that run at this moment in all processes. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Runs(Arc<Mutex<Vec<Run>>>);

struct Run {
    id: MessageId,
    lease: Lease,
    process: SimProcess,
}

/// Takes the run off when its future is dropped.
struct Running {
    runs: Runs,
    lease: Lease,
}

impl Runs {
    fn with<T>(&self, work: impl FnOnce(&mut Vec<Run>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin(&self, run: Run) -> Running {
        let lease = run.lease.clone();
        self.with(|runs| runs.push(run));
        Running {
            runs: self.clone(),
            lease,
        }
    }

    /// The leases on this message under which processes run that are neither stopped nor killed,
    /// and believe that they hold it.
    fn leases(&self, id: MessageId) -> Vec<LeaseToken> {
        self.with(|runs| {
            let alive = |run: &&Run| !run.process.is_stopped() && !run.process.is_killed();
            let believed = |run: &&Run| run.id == id && !run.lease.is_lost();
            let leases = runs.iter().filter(alive).filter(believed);
            leases.map(|run| run.lease.token()).collect()
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let held = self.lease.held();
        self.runs
            .with(|runs| runs.retain(|run| run.lease.held() != held));
    }
}

async fn run(context: Context) -> Outcome {
    let script = context.data().find::<Script>().expect("the world adds it");
    let (message, lease) = (context.message(), context.lease());
    let id = message.id;
    let mut rng = Rng::with_seed(script.seed ^ ((id.0 as u64) << 32) ^ u64::from(lease.fence()));
    let _running = script.runs.begin(Run {
        id,
        lease: lease.clone(),
        process: script.process.clone(),
    });
    script.recorder.log().began(lease.held());
    // Within this time the watchdogs of others have noticed, if they were not stopped.
    script.sim.sleep(MILLISECOND).await;
    let leases = script.runs.leases(id);
    if leases.len() > 1 {
        // One of the processes, perhaps this one, may have gone on in this moment.
        script.sim.sleep(MILLISECOND).await;
        let still = script.runs.leases(id);
        let leases: Vec<_> = leases
            .into_iter()
            .filter(|one| still.contains(one))
            .collect();
        script.recorder.log().believed(id, &leases);
    }
    let work = Duration::from_millis(rng.u64(0..4_000));
    let long = rng.u8(..10) == 0;
    script.sim.sleep(if long { work * 10 } else { work }).await;
    // Nothing goes on for ever.
    let choice = if lease.fence() > 6 { 0 } else { rng.u8(..10) };
    let decision = match choice {
        0..=4 => Decision::Done,
        5 => Decision::Discard,
        6 | 7 => Decision::Retry,
        8 => Decision::Snooze,
        _ => Decision::Dead,
    };
    let after = Duration::from_millis(rng.u64(0..8_000));
    let panics = decision == Decision::Retry && rng.bool();
    let wait = if panics { PAUSE } else { after };
    script.recorder.log().decided(lease.held(), decision, wait);
    match decision {
        Decision::Done => Outcome::Done,
        Decision::Discard => Outcome::Discard { error: "no".into() },
        // Does what a panic does, without a message on standard error.
        Decision::Retry if panics => resume_unwind(Box::new("planned")),
        Decision::Retry => Outcome::Retry {
            after: Some(after),
            error: "again".into(),
        },
        Decision::Snooze => Outcome::Snooze(after),
        Decision::Dead => Outcome::Dead { error: "no".into() },
    }
}

/// Handles queue `short`, with a lease of 6 seconds.
pub(crate) struct Short;
/// Handles queue `long`, with a lease of 20 seconds.
pub(crate) struct Long;

impl Handler for Short {
    fn definition() -> Definition {
        Definition::new("short", "short")
            .kinds(vec!["k".into()])
            .lease_ttl(Duration::from_secs(6))
            .retry(RetryPolicy::Fixed(PAUSE))
    }
    fn requires(requirements: &mut Requirements) {
        requirements.data::<Script>();
    }
    fn call(context: Context) -> BoxFuture<'static, Outcome> {
        Box::pin(run(context))
    }
}

impl Handler for Long {
    fn definition() -> Definition {
        Definition::new("long", "long")
            .kinds(vec!["k".into()])
            .lease_ttl(Duration::from_secs(20))
            .retry(RetryPolicy::Fixed(PAUSE))
    }
    fn requires(requirements: &mut Requirements) {
        requirements.data::<Script>();
    }
    fn call(context: Context) -> BoxFuture<'static, Outcome> {
        Box::pin(run(context))
    }
}
