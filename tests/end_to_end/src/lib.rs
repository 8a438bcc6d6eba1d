//! What must hold from the caller's transaction to the handler, whatever the runtime and the
//! database: each written once as a function, and the [`suite!`] macro that makes a test of each.
//!
//! A package of its own because it needs the storages, on which `outbox-testkit` does not depend,
//! and because a leg may bring no runtime but its own: `outbox-tokio`, `outbox-smol` and
//! `outbox-async-std` each run it in their own package, with the feature of their name. The tests
//! of this package are those that need several runtimes, or none of the adapters.

mod backend;
mod delivery;
mod ending;
mod outage;
mod postgres;
mod sqlite;
mod support;

pub use backend::{Backend, Ending, Outage};
pub use delivery::{
    a_failing_handler_is_retried_when_it_is_due_and_ends_as_a_dead_letter,
    an_enqueue_wakes_an_idle_worker_long_before_its_poll,
    what_commits_is_delivered_and_what_rolls_back_never_existed,
};
pub use ending::{
    a_handler_that_outlasts_the_grace_is_cancelled_and_its_message_runs_again_at_once,
    a_shutdown_waits_for_running_handlers_and_leaves_no_lease_behind,
};
pub use outage::{
    a_worker_outlives_an_outage_of_its_database, handlers_that_block_every_thread_keep_their_leases,
};
pub use postgres::Postgres;
pub use sqlite::Sqlite;

#[doc(hidden)]
pub use support::Leg;

/// Makes one `#[test]` of each property, for one runtime and one database.
///
/// The first argument is a type that implements [`Backend`]; the second an expression of type
/// `Arc<dyn Runtime>`, evaluated anew for each test inside an async block; the third a function
/// that runs a future to its end, on a thread that no task of that runtime runs on.
#[macro_export]
macro_rules! suite {
    ($backend:ty, $runtime:expr, block_on = $block_on:path) => {
        $crate::__tests! { [$backend] [$runtime] [$block_on]
            what_commits_is_delivered_and_what_rolls_back_never_existed
            a_failing_handler_is_retried_when_it_is_due_and_ends_as_a_dead_letter
            an_enqueue_wakes_an_idle_worker_long_before_its_poll
            a_worker_outlives_an_outage_of_its_database
            handlers_that_block_every_thread_keep_their_leases
            a_shutdown_waits_for_running_handlers_and_leaves_no_lease_behind
            a_handler_that_outlasts_the_grace_is_cancelled_and_its_message_runs_again_at_once
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ([$backend:ty] [$runtime:expr] [$block_on:path] $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $block_on(async {
                    let leg = $crate::Leg::<$backend>::new($runtime).await;
                    $crate::$name(leg).await;
                });
            }
        )*
    };
}
