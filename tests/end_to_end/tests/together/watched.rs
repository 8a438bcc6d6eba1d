//! A runtime that notes where its tasks are polled.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use outbox::{BoxFuture, Runtime};
use tokio::runtime::Handle;

/// Where tasks were polled: the thread's name, and whether tokio had been entered there.
pub(crate) type Place = (String, bool);

/// The thread that runs this, and whether it is in a context of tokio.
pub(crate) fn here() -> Place {
    let thread = thread::current();
    let name = thread.name().unwrap_or("unnamed").to_owned();
    (name, Handle::try_current().is_ok())
}

/// Places seen, each once.
pub(crate) struct Places(Mutex<BTreeSet<Place>>);

impl Places {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(BTreeSet::new()))
    }

    fn note(&self) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.insert(here());
    }

    pub(crate) fn seen(&self) -> BTreeSet<Place> {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.clone()
    }
}

/// Notes the place of every poll of every task: the agent, the handlers, the listener and, on the
/// threads of their own, the heartbeat.
pub(crate) struct Watched<R> {
    pub(crate) inner: R,
    pub(crate) places: &'static Places,
}

impl<R: Runtime> Watched<R> {
    pub(crate) fn shared(inner: R, places: &'static Places) -> Arc<dyn Runtime> {
        Arc::new(Self { inner, places })
    }

    fn watch(&self, mut task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        let places = self.places;
        Box::pin(poll_fn(move |context| {
            places.note();
            task.as_mut().poll(context)
        }))
    }
}

impl<R: Runtime> Runtime for Watched<R> {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.inner.spawn(self.watch(task));
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.inner.sleep(duration)
    }

    fn spawn_thread(&self, name: &str, task: BoxFuture<'static, ()>) -> io::Result<()> {
        self.inner.spawn_thread(name, self.watch(task))
    }

    fn spawn_blocking(&self, task: Box<dyn FnOnce() + Send>) {
        self.inner.spawn_blocking(task);
    }
}
