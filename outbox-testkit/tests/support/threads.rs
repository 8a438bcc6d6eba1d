//! A runtime of nothing but the standard library's threads: one for each task, and one for each
//! sleep. No adapter of ours, and no more than the seam asks for.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures::channel::oneshot;
use futures::executor::block_on;
use outbox_core::{BoxFuture, Runtime};

/// A thread per task.
pub(crate) struct Threads;

impl Runtime for Threads {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        thread::spawn(|| block_on(task));
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let (over, is_over) = oneshot::channel();
        let (sleeping, dropped) = mpsc::channel::<()>();
        thread::spawn(move || {
            // Ends early when the future is dropped, or threads would pile up.
            let _ = dropped.recv_timeout(duration);
            over.send(())
        });
        Box::pin(async move {
            let _ = is_over.await;
            drop(sleeping);
        })
    }

    fn spawn_thread(&self, name: &str, task: BoxFuture<'static, ()>) -> io::Result<()> {
        let thread = thread::Builder::new().name(name.to_owned());
        thread.spawn(|| block_on(task)).map(drop)
    }
}
