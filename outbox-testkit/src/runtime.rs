//! What every runtime owes a worker, each written once as a function, and the
//! [`runtime_suite!`](crate::runtime_suite) macro that makes a test of each.
//!
//! A runtime under test runs its tasks on two threads or more, because some of these block one. No
//! property takes the time something needs for its result: what never comes is a failure after a
//! minute, and the rest takes as long as it takes.

mod tasks;
mod workers;

use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

pub use tasks::{
    a_sleep_ends_after_its_time_and_holds_up_no_other, a_spawned_task_goes_on_by_itself,
    a_thread_of_its_own_has_its_name_and_timers_of_its_own, blocking_code_holds_up_no_task,
    spawned_tasks_run_side_by_side,
};
pub use workers::{
    a_blocked_handler_does_not_hold_up_the_others, a_dropped_worker_gives_back_what_it_held,
    a_handler_that_blocks_through_the_shutdown_is_left_behind_and_keeps_its_lease,
    a_panicking_handler_ends_neither_its_worker_nor_the_runtime,
    a_shutdown_from_another_thread_ends_an_idle_worker,
};

/// How long a property may take: far beyond what a loaded machine needs.
const LIMIT: Duration = Duration::from_secs(60);

/// Makes one `#[test]` of each property a runtime must have.
///
/// The first argument is an expression of type `Arc<dyn Runtime>`, evaluated anew for each test
/// inside an async block: a runtime with two threads for its tasks or more. The second is a
/// function that runs a future to its end, on a thread that none of these tasks runs on.
///
/// ```
/// # use std::io;
/// # use std::sync::Arc;
/// # use std::time::Duration;
/// # use outbox_core::{BoxFuture, Runtime};
/// # struct MyRuntime;
/// # impl Runtime for MyRuntime {
/// #     fn spawn(&self, _: BoxFuture<'static, ()>) {}
/// #     fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> { Box::pin(async {}) }
/// #     fn spawn_thread(&self, _: &str, _: BoxFuture<'static, ()>) -> io::Result<()> { Ok(()) }
/// # }
/// # fn block_on<F: Future>(future: F) -> F::Output { outbox_testkit::SimRuntime::new(1).block_on(future) }
/// outbox_testkit::runtime_suite!(Arc::new(MyRuntime), block_on = block_on);
/// ```
#[macro_export]
macro_rules! runtime_suite {
    ($runtime:expr, block_on = $block_on:path) => {
        $crate::__runtime_tests! { [$runtime] [$block_on]
            spawned_tasks_run_side_by_side
            a_spawned_task_goes_on_by_itself
            a_sleep_ends_after_its_time_and_holds_up_no_other
            a_thread_of_its_own_has_its_name_and_timers_of_its_own
            blocking_code_holds_up_no_task
            a_blocked_handler_does_not_hold_up_the_others
            a_handler_that_blocks_through_the_shutdown_is_left_behind_and_keeps_its_lease
            a_panicking_handler_ends_neither_its_worker_nor_the_runtime
            a_shutdown_from_another_thread_ends_an_idle_worker
            a_dropped_worker_gives_back_what_it_held
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __runtime_tests {
    ([$runtime:expr] [$block_on:path] $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::runtime::in_time(|| {
                    $block_on(async { $crate::runtime::$name($runtime).await });
                });
            }
        )*
    };
}

/// Runs a test on a thread of its own, so that one that hangs is a failure with a name; and after
/// the others, because they block the threads of a runtime that is the process's only one.
#[doc(hidden)]
pub fn in_time(test: impl FnOnce() + Send + 'static) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (ended, has_ended) = channel();
    let test = thread::spawn(move || {
        test();
        // Gone only if the minute is over.
        let _ = ended.send(());
    });
    if has_ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
        panic!("it did not end within {LIMIT:?}");
    }
    if let Err(panic) = test.join() {
        resume_unwind(panic);
    }
}
