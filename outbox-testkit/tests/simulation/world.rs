//! One world: a storage behind a faulty network, worker processes that crash and stall, and a
//! producer, all as one seed decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use futures::channel::oneshot;
use futures::future::FutureExt;
use outbox_core::{Due, MemoryStorage, NewMessage, Runtime, Storage, Worker, timeout};
use outbox_testkit::{FaultStorage, Odds, SimProcess, SimRuntime};

use crate::front::Front;
use crate::recorder::{Recorder, Tally};
use crate::script::{Long, Runs, Script, Short};

const SECOND: Duration = Duration::from_secs(1);
/// How long things go wrong.
const CHAOS: Duration = Duration::from_secs(60);
/// How long the workers then have to write what they could not, and as long again to end.
const CALM: Duration = Duration::from_secs(60);
/// How long it may take to come to rest afterwards.
const REST: Duration = Duration::from_secs(600);

/// What became of a world.
pub(crate) struct Ended {
    pub(crate) violations: Vec<String>,
    pub(crate) trace: Vec<String>,
    pub(crate) tally: Tally,
    pub(crate) kills: usize,
    pub(crate) stops: usize,
    pub(crate) shutdowns: usize,
    pub(crate) faults: usize,
    pub(crate) beside: usize,
}

/// A worker in a process of its own.
struct Running {
    process: SimProcess,
    front: Front,
    shutdown: oneshot::Sender<()>,
}

struct World {
    seed: u64,
    rng: Rng,
    sim: SimRuntime,
    recorder: Recorder,
    memory: MemoryStorage,
    faults: FaultStorage,
    workers: Vec<Running>,
    /// The processes of workers that were asked to end.
    leaving: Vec<SimProcess>,
    runs: Runs,
    /// Exchanges that began while another of the same worker was under way.
    beside: Arc<AtomicUsize>,
    kills: usize,
    stops: usize,
    shutdowns: usize,
}

/// Runs the world of this seed on the storage that `break_storage` makes of a sound one.
pub(crate) fn run(
    seed: u64,
    break_storage: impl FnOnce(MemoryStorage) -> Arc<dyn Storage>,
) -> Ended {
    let sim = SimRuntime::new(seed);
    let memory = MemoryStorage::new();
    sim.drive(&memory);
    let recorder = Recorder::new(break_storage(memory.clone()), memory.clone());
    let clock = recorder.clone();
    sim.on_advance(move |step| clock.log().now += step);
    let mut rng = Rng::with_seed(seed);
    let odds = Odds::each(rng.f64() * 0.06).longest(SECOND * rng.u32(1..15));
    let network = Arc::new(sim.clone());
    let faults = FaultStorage::seeded(Arc::new(recorder.clone()), network, seed, odds);
    let mut world = World {
        seed,
        rng,
        sim: sim.clone(),
        recorder,
        memory: memory.clone(),
        faults,
        workers: Vec::new(),
        leaving: Vec::new(),
        runs: Runs::default(),
        beside: Arc::default(),
        kills: 0,
        stops: 0,
        shutdowns: 0,
    };
    sim.block_on(async {
        world.go_wrong().await;
        world.come_to_rest().await;
    });
    let mut log = world.recorder.log();
    log.finish(&memory);
    Ended {
        violations: std::mem::take(&mut log.violations),
        trace: std::mem::take(&mut log.trace),
        tally: log.tally,
        kills: world.kills,
        stops: world.stops,
        shutdowns: world.shutdowns,
        faults: world.faults.struck(),
        beside: world.beside.load(Ordering::Relaxed),
    }
}

impl World {
    async fn go_wrong(&mut self) {
        for _ in 0..self.rng.usize(2..=4) {
            self.start_worker();
        }
        while self.sim.elapsed() < CHAOS {
            let pause = Duration::from_millis(self.rng.u64(0..6_000));
            self.sim.sleep(pause).await;
            self.enqueue().await;
            self.harm();
        }
    }

    /// Heals the network, lets the workers write what they could not and shuts them down, and lets a
    /// new one finish what is left.
    async fn come_to_rest(&mut self) {
        self.faults.heal();
        let workers = self.workers.iter().map(|worker| &worker.process);
        for process in workers.chain(&self.leaving) {
            process.go_on();
        }
        self.sim.sleep(CALM).await;
        // More than they can run at once, so that some have to be given back.
        for _ in 0..10 {
            self.enqueue().await;
        }
        self.sim.sleep(SECOND * 2).await;
        let asked_to_end = self.memory.now();
        for worker in self.workers.drain(..) {
            let given_up = worker.front.given_up();
            if !given_up.is_empty() {
                let mut log = self.recorder.log();
                let what = format!("{given_up:?}");
                log.violated("an outcome that was not answered is sent again", what);
            }
            // All are running now, and hear it.
            let _ = worker.shutdown.send(());
            self.leaving.push(worker.process);
        }
        self.sim.sleep(CALM).await;
        let messages = self.memory.messages().into_iter();
        // What had ended before is nobody's: of a claim that came through after it was given up, say.
        let held =
            messages.filter(|message| message.lease.is_some_and(|(_, end)| end > asked_to_end));
        let held: Vec<_> = held.map(|message| message.id).collect();
        if !held.is_empty() {
            let mut log = self.recorder.log();
            log.violated("a worker that ends holds nothing", format!("{held:?}"));
        }
        for process in self.leaving.drain(..) {
            process.kill();
        }
        let process = SimProcess::new(&self.sim);
        let front = self.front();
        let worker = self.worker(&process, &front).run_until_idle(REST);
        let ended = timeout(&self.sim, REST, worker).await;
        if ended.is_none() {
            let mut log = self.recorder.log();
            log.violated("after the faults everything comes to rest", "it did not");
        }
        // What is still on its way arrives.
        self.sim.sleep(SECOND * 30).await;
    }

    async fn enqueue(&mut self) {
        let messages = (0..self.rng.u8(0..6)).map(|_| {
            let queue = if self.rng.bool() { "short" } else { "long" };
            let mut new = NewMessage::new(queue, "k", *b"1");
            new.max_attempts = self.rng.u16(1..5);
            new.priority = self.rng.i16(-1..=1);
            if self.rng.u8(..4) == 0 {
                new.due = Due::After(Duration::from_millis(self.rng.u64(0..9_000)));
            }
            new
        });
        let messages = messages.collect();
        let written = self.recorder.enqueue(messages).await;
        written.expect("the producer's transaction commits");
    }

    fn harm(&mut self) {
        let place = self.rng.usize(..self.workers.len());
        match self.rng.u8(..5) {
            0 => {
                self.kills += 1;
                self.recorder.log().note("a process is killed");
                self.workers.swap_remove(place).process.kill();
                self.start_worker();
            }
            2 => {
                self.shutdowns += 1;
                self.recorder.log().note("a worker is shut down");
                let worker = self.workers.swap_remove(place);
                // It may have stopped, and hears of it later.
                let _ = worker.shutdown.send(());
                self.leaving.push(worker.process);
                self.start_worker();
            }
            1 => {
                self.stops += 1;
                let process = self.workers[place].process.clone();
                let time = Duration::from_millis(self.rng.u64(0..40_000));
                self.recorder
                    .log()
                    .note(format!("a process is stopped for {time:?}"));
                process.stop();
                let stopped = self.sim.sleep(time);
                self.sim.spawn(Box::pin(async move {
                    stopped.await;
                    process.go_on();
                }));
            }
            _ => {}
        }
    }

    fn front(&mut self) -> Front {
        let (faults, most) = (self.faults.clone(), self.rng.usize(1..=3));
        Front::new(Arc::new(faults), most, Arc::clone(&self.beside))
    }

    fn start_worker(&mut self) {
        let process = SimProcess::new(&self.sim);
        let front = self.front();
        let worker = self.worker(&process, &front);
        let (shutdown, asked) = oneshot::channel::<()>();
        self.workers.push(Running {
            process: process.clone(),
            front,
            shutdown,
        });
        process.spawn(Box::pin(async move {
            let ended = worker.run_until(asked.map(drop)).await;
            ended.expect("it is configured and never refused");
        }));
    }

    fn worker(&mut self, process: &SimProcess, front: &Front) -> Worker {
        let script = Script {
            seed: self.seed,
            sim: self.sim.clone(),
            process: process.clone(),
            recorder: self.recorder.clone(),
            runs: self.runs.clone(),
        };
        Worker::new(Arc::new(front.clone()), Arc::new(process.clone()))
            .data(script)
            .concurrency(self.rng.usize(1..8))
            .prefetch(self.rng.usize(0..8))
            .poll_interval(SECOND * self.rng.u32(1..6))
            .storage_timeout(SECOND * self.rng.u32(1..9))
            .grace(SECOND * self.rng.u32(0..20))
            .register::<Short>()
            .register::<Long>()
    }
}
