//! The runtime as a worker meets it: what every runtime owes it, and how a tokio runtime ends.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use outbox_core::{
    BoxFuture, Context, Definition, ErrorKind, Handler, MemoryStorage, Outcome, Requirements,
    Runtime,
};
use outbox_tokio::TokioRuntime;

outbox_testkit::runtime_suite!(Arc::new(TokioRuntime::current()), block_on = block_on);

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = two_threads();
    let output = runtime.block_on(future);
    // A blocked task is left behind, as a worker leaves it.
    runtime.shutdown_background();
    output
}

fn two_threads() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be started")
}

struct Quick;

impl Handler for Quick {
    fn definition() -> Definition {
        Definition::new("quick", "q").kinds(vec!["k".into()])
    }
    fn requires(_: &mut Requirements) {}
    fn call(_: Context) -> BoxFuture<'static, Outcome> {
        Box::pin(async { Outcome::Done })
    }
}

#[test]
fn a_thread_of_its_own_runs_while_the_only_thread_of_the_runtime_is_blocked() {
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
            done.send(()).expect("the test waits");
        };
        shared
            .spawn_thread("apart", Box::pin(task))
            .expect("a thread can be started");
        // Blocks the only thread of the runtime: its timers stand still.
        is_done.recv().expect("the thread went on");
    });
}

#[test]
fn a_runtime_that_ends_before_its_worker_is_an_error_and_no_hang() {
    let first = two_threads();
    let worker = {
        let _entered = first.enter();
        outbox_tokio::worker(MemoryStorage::realtime()).register::<Quick>()
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
