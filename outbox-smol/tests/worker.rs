//! The runtime as a worker meets it: what every runtime owes it, and how an executor ends.

use std::future::pending;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use outbox_core::{
    BoxFuture, Context, Definition, ErrorKind, Handler, MemoryStorage, Outcome, Requirements,
    Runtime, Worker,
};
use outbox_smol::SmolRuntime;
use smol::Executor;

outbox_testkit::runtime_suite!(two_threads(), block_on = smol::block_on);

/// An executor of the test's own, because the global one has a single thread. Its threads end
/// with the process.
fn two_threads() -> Arc<dyn Runtime> {
    let executor = Arc::new(Executor::new());
    for _ in 0..2 {
        let executor = Arc::clone(&executor);
        thread::spawn(move || smol::block_on(executor.run(pending::<()>())));
    }
    Arc::new(SmolRuntime::new(&executor))
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
fn the_global_executor_runs_its_tasks_on_its_own_thread() {
    let (told, is_told) = channel();
    SmolRuntime::global().spawn(Box::pin(async move {
        let name = thread::current().name().map(str::to_owned);
        told.send(name).expect("the test waits");
    }));
    // Blocks this thread: nothing here polls the task.
    let name = is_told.recv().expect("it runs").expect("it has a name");
    assert!(name.starts_with("smol-"), "{name}");
}

#[test]
fn an_executor_that_is_dropped_before_its_worker_is_an_error_and_no_hang() {
    let executor = Arc::new(Executor::new());
    let runtime = SmolRuntime::new(&executor);
    let storage = Arc::new(MemoryStorage::realtime());
    let worker = Worker::new(storage, Arc::new(runtime)).register::<Quick>();
    let error = smol::block_on(async {
        let mut run = Box::pin(worker.run());
        // Runs the worker until nothing more is to be done at once.
        executor
            .run(async {
                for _ in 0..10 {
                    assert!(smol::future::poll_once(&mut run).await.is_none());
                    smol::future::yield_now().await;
                }
            })
            .await;
        drop(executor);
        run.await.expect_err("its executor is gone")
    });
    assert_eq!(error.kind(), ErrorKind::Runtime);
}

#[test]
fn a_worker_on_an_executor_that_is_gone_is_an_error_and_no_hang() {
    let runtime = SmolRuntime::new(&Arc::new(Executor::new()));
    let storage = Arc::new(MemoryStorage::realtime());
    let worker = Worker::new(storage, Arc::new(runtime)).register::<Quick>();
    let error = smol::block_on(worker.run()).expect_err("there is no executor");
    assert_eq!(error.kind(), ErrorKind::Runtime);
}
