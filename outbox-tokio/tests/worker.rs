//! The runtime as a worker meets it: its threads, its end, and handlers that block.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox_core::{
    BoxFuture, Context, Definition, Draft, ErrorKind, Handler, MemoryStorage, Outcome,
    Requirements, Runtime, Storage,
};
use outbox_tokio::TokioRuntime;

/// Tells that it began, and blocks its thread until it is let go.
struct Blocking;

struct Gate {
    began: Sender<()>,
    go: Mutex<Receiver<()>>,
}

impl Handler for Blocking {
    fn definition() -> Definition {
        Definition::new("blocking", "q").kinds(vec!["k".into()])
    }
    fn requires(requirements: &mut Requirements) {
        requirements.data::<Gate>();
    }
    fn call(context: Context) -> BoxFuture<'static, Outcome> {
        Box::pin(async move {
            let gate = context.data().find::<Gate>().expect("the test adds it");
            gate.began.send(()).expect("the test waits for it");
            let _ = gate.go.lock().expect("one handler").recv();
            Outcome::Done
        })
    }
}

fn gate() -> (Gate, Receiver<()>, Sender<()>) {
    let (began, has_begun) = channel();
    let (release, go) = channel();
    let go = Mutex::new(go);
    (Gate { began, go }, has_begun, release)
}

fn two_threads() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be started")
}

async fn enqueue(storage: &MemoryStorage) {
    let draft = Draft::json("q", "k", &1).check(100).expect("valid");
    storage
        .enqueue(vec![draft])
        .await
        .expect("memory does not fail");
}

#[test]
fn a_handler_that_blocks_through_the_shutdown_is_left_behind_and_keeps_its_lease() {
    let runtime = two_threads();
    let storage = MemoryStorage::realtime();
    let (gate, has_begun, release) = gate();
    let report = runtime.block_on(async {
        enqueue(&storage).await;
        let worker = outbox_tokio::worker(storage.clone())
            .data(gate)
            .register::<Blocking>()
            .grace(Duration::ZERO);
        let begun = tokio::task::spawn_blocking(move || has_begun.recv());
        worker
            .run_until(async {
                begun.await.expect("no panic").expect("it begins");
            })
            .await
            .expect("it is configured")
    });
    assert_eq!((report.started, report.done, report.released), (1, 0, 0));
    let message = &storage.messages()[0];
    assert!(
        message.lease.is_some(),
        "its code still runs: nobody else may start it yet"
    );
    drop(release);
}

#[test]
fn a_blocked_handler_does_not_hold_up_the_others() {
    let runtime = two_threads();
    let storage = MemoryStorage::realtime();
    let (gate, has_begun, release) = gate();
    let report = runtime.block_on(async {
        enqueue(&storage).await;
        enqueue(&storage).await;
        let worker = outbox_tokio::worker(storage.clone())
            .data(gate)
            .register::<Blocking>();
        // Lets both go once the first blocks a thread of the runtime.
        let released = tokio::task::spawn_blocking(move || {
            has_begun.recv().expect("the first begins");
            release.send(()).expect("it waits");
            has_begun.recv().expect("the second begins");
            release.send(()).expect("it waits");
        });
        let report = worker.run_until_idle(Duration::ZERO).await;
        released.await.expect("no panic");
        report.expect("it is configured")
    });
    assert_eq!(report.done, 2);
}

#[test]
fn a_thread_of_its_own_runs_while_every_thread_of_the_runtime_is_blocked() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be started");
    let (done, is_done) = channel();
    runtime.block_on(async {
        let shared = Arc::new(TokioRuntime::current());
        let own = Arc::clone(&shared);
        let task = async move {
            own.sleep(Duration::from_millis(1)).await;
            let name = std::thread::current().name().map(str::to_owned);
            done.send(name).expect("the test waits");
        };
        shared
            .spawn_thread("apart", Box::pin(task))
            .expect("a thread can be started");
        // Blocks the only thread of the runtime: its timers stand still.
        let name = is_done.recv().expect("the thread went on");
        assert_eq!(name.as_deref(), Some("apart"));
    });
}

#[test]
fn a_runtime_that_ends_before_its_worker_is_an_error_and_no_hang() {
    let first = two_threads();
    let storage = MemoryStorage::realtime();
    let worker = {
        let _entered = first.enter();
        let (gate, _, _) = gate();
        outbox_tokio::worker(storage)
            .data(gate)
            .register::<Blocking>()
    };
    let second = two_threads();
    let error = second.block_on(async move {
        let run = tokio::spawn(worker.run());
        first.shutdown_background();
        run.await
            .expect("no panic")
            .expect_err("its runtime is gone")
    });
    assert_eq!(error.kind(), ErrorKind::Runtime);
}
