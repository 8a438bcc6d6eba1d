//! All runtimes in one build, as in a workspace where one package turned on tokio and another
//! async-std: sqlx is built with each of them and decides where it is called. Every worker runs on
//! its own runtime all the same, and none of the others is entered by any of its tasks.

mod watched;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::channel::oneshot;
use futures::stream::StreamExt;
use outbox::async_std::AsyncStdRuntime;
use outbox::prelude::*;
use outbox::smol::SmolRuntime;
use outbox::tokio::TokioRuntime;
use outbox::{Report, Runtime, Storage, Worker};
use outbox_end_to_end::{Backend, Ending, Postgres, Sqlite};
use watched::{Place, Places, Watched, here};

/// What is watched of one leg, and how it names the threads of its tasks.
struct Watch {
    places: Places,
    thread: &'static str,
    tokio: bool,
}

impl Watch {
    const fn new(thread: &'static str, tokio: bool) -> Self {
        let places = Places::new();
        Self {
            places,
            thread,
            tokio,
        }
    }

    /// Every poll was on a thread of this runtime or on one of its own, with tokio or without.
    fn assert_at_home(&self) {
        let seen = self.places.seen();
        let (apart, shared): (Vec<&Place>, Vec<&Place>) = seen
            .iter()
            .partition(|(name, _)| ["outbox-heartbeat", "watch"].contains(&name.as_str()));
        let at_home = |name: &str| name.starts_with(self.thread);
        assert!(shared.iter().all(|(name, _)| at_home(name)), "{seen:?}");
        assert!(
            seen.iter().all(|(_, tokio)| *tokio == self.tokio),
            "{seen:?}"
        );
        assert!(!apart.is_empty() && !shared.is_empty(), "{seen:?}");
    }
}

fn tokio_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("tokio-of-the-test")
        .enable_all()
        .build()
        .expect("a runtime can be started")
}

/// The suite on every database, with a watched runtime and a `block_on` of its own.
macro_rules! leg {
    ($(#[$doc:meta])* $name:ident, $watch:expr, $runtime:expr, $block_on:expr) => {
        $(#[$doc])*
        mod $name {
            use super::*;

            static WATCH: Watch = $watch;

            fn runtime() -> Arc<dyn Runtime> {
                Watched::shared($runtime, &WATCH.places)
            }

            fn block_on(test: impl Future<Output = ()>) {
                $block_on(test);
                WATCH.assert_at_home();
            }

            mod postgres {
                outbox_end_to_end::suite!(super::Postgres, super::runtime(), block_on = super::block_on);
            }

            mod sqlite {
                outbox_end_to_end::suite!(super::Sqlite, super::runtime(), block_on = super::block_on);
            }
        }
    };
}

leg!(
    on_tokio,
    Watch::new("tokio-of-the-test", true),
    TokioRuntime::current(),
    |test| tokio_runtime().block_on(test)
);
leg!(
    on_smol,
    Watch::new("smol-", false),
    SmolRuntime::global(),
    smol::block_on
);
leg!(
    on_async_std,
    Watch::new("async-std/", false),
    AsyncStdRuntime,
    smol::block_on
);
leg!(
    /// The caller is in a context of tokio, and opens the storage there.
    on_smol_from_tokio,
    Watch::new("smol-", false),
    SmolRuntime::global(),
    |test| tokio_runtime().block_on(test)
);

/// Tells where it runs.
#[job(queue = "where")]
async fn whereabouts(_: (), Data(told): Data<UnboundedSender<Place>>) -> outbox::Result {
    told.unbounded_send(here())?;
    Ok(())
}

/// A worker whose future is driven by a thread of its own.
struct Running {
    backend: Postgres,
    told: UnboundedReceiver<Place>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Report>,
}

impl Running {
    /// Opens the database and the storage, makes the worker and runs it, all inside `block_on`.
    fn start(
        worker: fn(Arc<dyn Storage>) -> Worker,
        block_on: impl FnOnce(futures::future::BoxFuture<'static, Report>) -> Report + Send + 'static,
    ) -> Self {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let (teller, told) = unbounded();
        let run = async move {
            let backend = Postgres::new().await;
            let worker = worker(backend.storage().await);
            ready.send(backend).expect("the test waits");
            let worker = worker.data::<UnboundedSender<Place>>(teller);
            let until = async {
                let _ = stopped.await;
            };
            let report = worker.register::<whereabouts>().run_until(until).await;
            report.expect("the worker ends well")
        };
        let thread = thread::spawn(move || block_on(Box::pin(run)));
        let backend = is_ready.recv().expect("Postgres answers");
        Self {
            backend,
            told,
            stop,
            thread,
        }
    }

    /// Where the worker runs a message that is enqueued now.
    fn whereabouts(&mut self) -> Place {
        smol::block_on(async {
            while !self.backend.has_listener().await {
                smol::Timer::after(Duration::from_millis(10)).await;
            }
            let drafts = vec![whereabouts::job(())];
            self.backend.enqueue(drafts, Ending::Commit).await;
            self.told.next().await.expect("the worker runs")
        })
    }

    fn sessions(&self) -> BTreeSet<i32> {
        smol::block_on(self.backend.sessions())
    }

    fn stop(self) -> Report {
        self.stop.send(()).expect("the worker runs");
        self.thread.join().expect("it does not panic")
    }
}

#[test]
fn three_workers_in_one_process_keep_to_their_runtimes_and_outlive_tokio() {
    let tokio = tokio_runtime();
    let handle = tokio.handle().clone();
    let mut on_tokio = Running::start(outbox::tokio::shared_worker, move |run| {
        handle.block_on(run)
    });
    let mut on_smol = Running::start(outbox::smol::shared_worker, smol::block_on);
    let mut on_async_std = Running::start(outbox::async_std::shared_worker, smol::block_on);

    for (worker, thread, tokio) in [
        (&mut on_tokio, "tokio-of-the-test", true),
        (&mut on_smol, "smol-", false),
        (&mut on_async_std, "async-std/", false),
    ] {
        let (name, entered) = worker.whereabouts();
        assert!(name.starts_with(thread), "{name} is not of {thread}");
        assert_eq!(entered, tokio, "{name}");
    }

    // The others hold nothing of tokio's: no task, no timer, no socket.
    let sessions = [on_smol.sessions(), on_async_std.sessions()];
    assert_eq!(on_tokio.stop().done, 1);
    drop(tokio);
    for (mut worker, sessions) in [on_smol, on_async_std].into_iter().zip(sessions) {
        let (_, tokio) = worker.whereabouts();
        assert!(!tokio);
        assert!(worker.sessions().is_superset(&sessions), "one was lost");
        assert_eq!(worker.stop().done, 2);
    }
}

#[test]
fn a_storage_opened_on_a_runtime_that_has_ended_is_connected_again() {
    let tokio = tokio_runtime();
    let (backend, storage) = tokio.block_on(async {
        let backend = Postgres::new().await;
        let storage = backend.storage().await;
        (backend, storage)
    });
    drop(tokio);
    let (teller, mut told) = unbounded();
    let report = smol::block_on(async {
        let drafts = vec![whereabouts::job(())];
        backend.enqueue(drafts, Ending::Commit).await;
        outbox::smol::shared_worker(storage)
            .data::<UnboundedSender<Place>>(teller)
            .register::<whereabouts>()
            .run_until_idle(Duration::ZERO)
            .await
    });
    assert_eq!(report.expect("the worker ends well").done, 1);
    let place = smol::block_on(told.next());
    let (name, tokio) = place.expect("it ran");
    assert!(name.starts_with("smol-") && !tokio, "{name}");
}
