//! Nothing that is generated warns, whatever lints the user turned on.
#![deny(warnings, missing_docs, unreachable_pub, missing_debug_implementations)]
#![deny(
    missing_copy_implementations,
    unused_qualifications,
    single_use_lifetimes
)]
#![deny(
    elided_lifetimes_in_paths,
    unnameable_types,
    let_underscore_drop,
    unused_results
)]

extern crate outbox_core as outbox;

use outbox_core::{Context, Data, Handler, Lease, Result};
use outbox_macros::{Message, job, subscriber};
use serde::{Deserialize, Serialize};

/// Says hello.
#[job]
async fn welcome(_: u64) {}

#[job]
async fn sweep(_: ()) {}

#[expect(non_snake_case, reason = "the name is the point of this case")]
#[job(queue = "mail")]
async fn sendMail(user: NewUser, Data(prefix): Data<String>, lease: Lease) -> Result {
    drop((user, prefix, lease));
    Ok(())
}

#[subscriber]
async fn reserve(order: OrderPlaced, context: Context) {
    drop((order, context));
}

#[derive(Serialize, Deserialize)]
struct NewUser {
    id: u64,
}

#[derive(Serialize, Deserialize, Message)]
#[message(group = self.customer, key = self.id)]
struct OrderPlaced {
    id: u64,
    customer: u64,
}

/// Public items in a private module.
mod hidden {
    use outbox_macros::job;

    #[job]
    pub(crate) async fn nested(_: u64) {}
}

/// Public items that are reachable.
pub mod visible {
    use outbox_macros::{Message, job, subscriber};
    use serde::{Deserialize, Serialize};

    /// A public job.
    #[job]
    pub async fn published(_: u64) {}

    /// A public subscriber.
    #[subscriber]
    pub async fn listen(_: Event) {}

    /// A public message.
    #[derive(Clone, Copy, Debug, Serialize, Deserialize, Message)]
    pub enum Event {
        /// Something happened.
        Happened,
    }

    #[doc(hidden)]
    #[job]
    pub async fn secret(_: u64) {}
}

fn register<H: Handler>() {}

fn main() {
    register::<welcome>();
    register::<sweep>();
    register::<sendMail>();
    register::<reserve>();
    register::<hidden::nested>();
}
