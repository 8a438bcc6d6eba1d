//! Workers on the runtime under test, with messages in memory.

use std::pin::pin;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_util::future::{Either, join, select};
use futures_util::stream::StreamExt;
use outbox_core::{
    BoxFuture, Context, Definition, Draft, Event, Handler, Health, MemoryStorage, Outcome,
    Requirements, RetryPolicy, Runtime, Storage, Worker, Written,
};

const QUEUE: &str = "q";
const HOUR: Duration = Duration::from_secs(3600);

fn definition(name: &'static str) -> Definition {
    Definition::new(name, QUEUE).kinds(vec!["k".into()])
}

async fn enqueue(storage: &MemoryStorage, count: usize) {
    let draft = || Draft::json(QUEUE, "k", &1).check(100).expect("valid");
    storage
        .enqueue((0..count).map(|_| draft()).collect())
        .await
        .expect("memory does not fail");
}

fn worker(storage: &MemoryStorage, runtime: &Arc<dyn Runtime>) -> Worker {
    Worker::new(Arc::new(storage.clone()), Arc::clone(runtime))
}

/// Tells that it began, and blocks its thread until it is let go.
struct Blocking;

struct Gate {
    began: UnboundedSender<()>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Handler for Blocking {
    fn definition() -> Definition {
        definition("blocking")
    }
    fn requires(requirements: &mut Requirements) {
        requirements.data::<Gate>();
    }
    fn call(context: Context) -> BoxFuture<'static, Outcome> {
        Box::pin(async move {
            let gate = context.data().find::<Gate>().expect("the test adds it");
            gate.began.unbounded_send(()).expect("the test waits");
            let _ = gate.go.lock().expect("nothing panics").recv();
            Outcome::Done
        })
    }
}

fn gate() -> (Gate, UnboundedReceiver<()>, mpsc::Sender<()>) {
    let (began, has_begun) = unbounded();
    let (release, go) = mpsc::channel();
    let go = Mutex::new(go);
    (Gate { began, go }, has_begun, release)
}

/// Nobody may start a message while its code still runs.
pub async fn a_handler_that_blocks_through_the_shutdown_is_left_behind_and_keeps_its_lease(
    runtime: Arc<dyn Runtime>,
) {
    let storage = MemoryStorage::realtime();
    enqueue(&storage, 1).await;
    let (gate, mut has_begun, release) = gate();
    let report = worker(&storage, &runtime)
        .data(gate)
        .register::<Blocking>()
        .grace(Duration::ZERO)
        .run_until(async { has_begun.next().await.expect("it begins") })
        .await
        .expect("it is configured");
    assert_eq!((report.started, report.done, report.released), (1, 0, 0));
    let message = &storage.messages()[0];
    assert!(message.lease.is_some(), "its code still runs");
    drop(release);
}

/// The second starts while the first still blocks a thread.
pub async fn a_blocked_handler_does_not_hold_up_the_others(runtime: Arc<dyn Runtime>) {
    let storage = MemoryStorage::realtime();
    enqueue(&storage, 2).await;
    let (gate, mut has_begun, release) = gate();
    let run = worker(&storage, &runtime)
        .data(gate)
        .register::<Blocking>()
        .run_until_idle(Duration::ZERO);
    let letting_go = async {
        for _ in 0..2 {
            has_begun.next().await.expect("another begins");
        }
        drop(release);
    };
    let (report, ()) = join(run, letting_go).await;
    assert_eq!(report.expect("it is configured").done, 2);
}

/// Panics at its first attempt.
struct Panicking;

impl Handler for Panicking {
    fn definition() -> Definition {
        definition("panicking").retry(RetryPolicy::Fixed(Duration::ZERO))
    }
    fn requires(_: &mut Requirements) {}
    fn call(context: Context) -> BoxFuture<'static, Outcome> {
        Box::pin(async move {
            assert!(context.message().attempt > 1, "the first attempt panics");
            Outcome::Done
        })
    }
}

/// More panics than any runtime has threads, and each message is done at its second attempt.
pub async fn a_panicking_handler_ends_neither_its_worker_nor_the_runtime(
    runtime: Arc<dyn Runtime>,
) {
    let storage = MemoryStorage::realtime();
    enqueue(&storage, 8).await;
    let report = worker(&storage, &runtime)
        .register::<Panicking>()
        .run_until_idle(Duration::ZERO)
        .await
        .expect("it is configured");
    assert_eq!((report.panicked, report.retried, report.done), (8, 8, 8));
    spawn_and_await(&runtime).await;
}

async fn spawn_and_await(runtime: &Arc<dyn Runtime>) {
    let (told, mut is_told) = unbounded();
    runtime.spawn(Box::pin(async move {
        told.unbounded_send(()).expect("the test waits");
    }));
    is_told.next().await.expect("tasks still run");
}

/// A worker that waits for its next poll, an hour away, is woken by another thread.
pub async fn a_shutdown_from_another_thread_ends_an_idle_worker(runtime: Arc<dyn Runtime>) {
    let storage = MemoryStorage::realtime();
    enqueue(&storage, 1).await;
    let (settled, mut is_settled) = unbounded();
    let worker = worker(&storage, &runtime)
        .register::<Quick>()
        .poll_interval(HOUR)
        .observe(move |event| tell_settled(event, &settled))
        .prepare()
        .expect("it is configured");
    let handle = worker.handle();
    let stopping = async {
        is_settled.next().await.expect("the message is settled");
        thread::spawn(move || handle.shutdown());
        is_settled
    };
    let handle = worker.handle();
    let (report, _) = join(worker.run(), stopping).await;
    assert_eq!(report.expect("it ends well").done, 1);
    assert_eq!(handle.health(), Health::Stopped);
}

/// Is done at once.
struct Quick;

impl Handler for Quick {
    fn definition() -> Definition {
        definition("quick")
    }
    fn requires(_: &mut Requirements) {}
    fn call(_: Context) -> BoxFuture<'static, Outcome> {
        Box::pin(async { Outcome::Done })
    }
}

fn tell_settled(event: &Event<'_>, told: &UnboundedSender<Written>) {
    if let Event::Settled { written, .. } = event {
        // Nobody waits any more once the test has seen what it wanted.
        let _ = told.unbounded_send(*written);
    }
}

/// Tells that it began, and never ends by itself.
struct Endless;

impl Handler for Endless {
    fn definition() -> Definition {
        definition("endless")
    }
    fn requires(requirements: &mut Requirements) {
        requirements.data::<UnboundedSender<()>>();
    }
    fn call(context: Context) -> BoxFuture<'static, Outcome> {
        Box::pin(async move {
            let began = context.data().find::<UnboundedSender<()>>();
            let began = began.expect("the test adds it");
            began.unbounded_send(()).expect("the test waits");
            std::future::pending().await
        })
    }
}

/// Dropping the future of a worker drops none of its tasks: they end by themselves.
pub async fn a_dropped_worker_gives_back_what_it_held(runtime: Arc<dyn Runtime>) {
    let storage = MemoryStorage::realtime();
    enqueue(&storage, 1).await;
    let (began, mut has_begun) = unbounded::<()>();
    let (settled, mut is_settled) = unbounded();
    let run = worker(&storage, &runtime)
        .data(began)
        .register::<Endless>()
        .observe(move |event| tell_settled(event, &settled))
        .run();
    match select(pin!(run), has_begun.next()).await {
        Either::Left((ended, _)) => panic!("the worker ended: {ended:?}"),
        Either::Right((began, _dropped_here)) => began.expect("the handler begins"),
    }
    let written = is_settled.next().await;
    assert_eq!(written, Some(Written::Released));
    assert!(storage.messages()[0].lease.is_none());
}
