//! Handlers that block their threads: they hold up nobody else for long, whatever thread they were
//! given.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox_core::{
    BoxFuture, Context, Data, Definition, Draft, Event, FromContext, Handler, MemoryStorage,
    Outcome, Requirements, Runtime, Storage, Worker,
};
use outbox_tokio::TokioRuntime;

/// A tokio runtime that begins handlers one after the other, although it has more threads.
struct OneByOne(TokioRuntime);

impl Runtime for OneByOne {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.spawn(task);
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.sleep(duration)
    }
    fn spawn_thread(&self, name: &str, task: BoxFuture<'static, ()>) -> std::io::Result<()> {
        self.0.spawn_thread(name, task)
    }
    fn parallelism(&self) -> usize {
        1
    }
}

/// What `block` waits for: somebody who tells one of them to go on.
struct Gate(Mutex<Receiver<()>>);

/// Ends at once, after one await or after a while where the kind says so, and otherwise blocks its thread until it may go
/// on; one that sleeps does not even tell the runtime.
struct Blocks;

impl Handler for Blocks {
    fn definition() -> Definition {
        Definition::new("blocks", "q").kinds(
            ["warms up", "ends", "waits", "rests", "blocks", "sleeps"]
                .map(Into::into)
                .to_vec(),
        )
    }
    fn requires(requirements: &mut Requirements) {
        Data::<Gate>::requires(requirements);
    }
    fn call(context: Context) -> BoxFuture<'static, Outcome> {
        Box::pin(async move {
            let Data(gate) = Data::<Gate>::from_context(&context).expect("it is given");
            let open = || {
                // Less than a quarter of the lease, after which the worker looks around by itself.
                let patience = Duration::from_secs(5);
                let gate = gate.0.lock().expect("nobody panics with it");
                let opened = gate.recv_timeout(patience);
                drop(gate);
                opened.expect("the other message is settled meanwhile");
            };
            match &*context.message().kind {
                "waits" => tokio::task::yield_now().await,
                "rests" => tokio::time::sleep(Duration::from_millis(100)).await,
                "blocks" => tokio::task::block_in_place(open),
                "sleeps" => open(),
                _ => {}
            }
            Outcome::Done
        })
    }
}

/// Runs messages of these kinds. Each that is settled lets one that blocks go on, except those that
/// warm the worker up.
fn run(kinds: &[&'static str]) {
    run_with(kinds, kinds.len(), None);
}

/// The same with so many slots, and while messages of a queue that nobody works on come in as often as that, and wake the
/// worker.
fn run_with(kinds: &[&'static str], slots: usize, others: Option<Duration>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be started");
    let report = runtime.block_on(async {
        let storage = MemoryStorage::realtime();
        if let Some(pause) = others {
            let storage = storage.clone();
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(pause).await;
                    let other = Draft::bytes("other", "k", Vec::new());
                    let other = other.check(100).expect("it is sound");
                    storage.enqueue(vec![other]).await.expect("memory");
                }
            });
        }
        let drafts = kinds
            .iter()
            .map(|kind| Draft::bytes("q", *kind, Vec::new()));
        let messages = drafts.map(|draft| draft.check(100).expect("it is sound"));
        storage.enqueue(messages.collect()).await.expect("memory");
        let (open, opened) = channel();
        let worker = Worker::new(
            Arc::new(storage),
            Arc::new(OneByOne(TokioRuntime::current())),
        )
        .register::<Blocks>()
        .data(Gate(Mutex::new(opened)))
        // With no slot left nothing is claimed, which would let the worker look around.
        .concurrency(slots)
        .poll_interval(Duration::from_secs(60))
        .observe(move |event| {
            if let Event::Settled { message, .. } = event
                && message.kind != "warms up"
            {
                // Nobody listens any more once the worker ends.
                let _ = open.send(());
            }
        });
        worker
            .run_until_idle(Duration::ZERO)
            .await
            .expect("it runs")
    });
    assert_eq!(report.panicked, 0);
    assert_eq!(report.done, kinds.len() as u64);
}

#[test]
fn what_ended_before_a_handler_that_blocks_is_settled_meanwhile() {
    run(&["ends", "blocks"]);
}

#[test]
fn what_is_in_line_behind_handlers_that_block_runs_meanwhile() {
    run(&["blocks", "blocks", "ends"]);
}

#[test]
fn what_began_before_a_handler_that_blocks_goes_on_meanwhile() {
    run(&["waits", "sleeps"]);
}

#[test]
fn what_is_in_line_is_not_forgotten_while_the_worker_is_woken_for_other_things() {
    run_with(&["blocks", "ends"], 2, Some(Duration::from_millis(2)));
}

#[test]
fn what_ended_after_a_while_is_settled_before_the_next_that_blocks() {
    // The first are quick, so that both of the others are claimed together.
    let mut kinds = vec!["warms up"; 100];
    kinds.extend(["rests", "sleeps"]);
    run_with(&kinds, 1, None);
}
