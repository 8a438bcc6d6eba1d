//! The macros of `outbox`: [`#[job]`](macro@job) makes a function a unit of work,
//! [`#[subscriber]`](macro@subscriber) makes it listen to a queue, and
//! [`#[derive(Message)]`](derive@Message) makes a type something that can be enqueued.
//!
//! Users get them from the `outbox` crate. They do nothing that could not be written by hand; each
//! page shows what would be. Expansions name everything through the hidden module
//! `outbox::__private`; a crate that re-exports or renames `outbox` says where it is with
//! `crate = path`.
//!
//! # Settings
//! A setting is `key = value`. An unknown key, a key given twice, or a value that cannot work is a
//! compile error at that place; all errors of one use are reported together, and the annotated item
//! itself always stays.
//!
//! | key | in | value | default |
//! |---|---|---|---|
//! | `kind` | job, message | the stored name, 1 to 255 bytes, not only whitespace | the function's name; the type's in snake case |
//! | `aliases("..", ..)` | job, message | names it had before; messages stored under them still run | none |
//! | `queue` | all | 1 to 255 bytes, not only whitespace | `"default"`; for a subscriber, its message's queue |
//! | `max_attempts` | all | 1 to 32767 | 10; for a subscriber, what the message says |
//! | `priority` | job | -3 (first) to 3 (last) | 0 |
//! | `key` | message | an expression over `self` that can be displayed, and is no `Option` | none |
//! | `group` | message | the same; stored with the message, and not ordered yet | none |
//! | `lease_ttl_seconds`, or `lease_ttl` | job, subscriber | whole seconds, or text such as `"2m"`; 1 second to 24 hours | 30 seconds |
//! | `timeout_seconds`, or `timeout` | job, subscriber | whole seconds, or text such as `"500ms"`; the limit of one run | none |
//! | `retry` | job, subscriber | an expression of type `RetryPolicy`, evaluated when the handler is registered | exponential, 1 second to 5 minutes |
//! | `crate` | all | the path of `outbox` | `::outbox` |
//!
//! Durations as text are a whole number and one unit: `ms`, `s`, `m` or `h`.
//!
//! `key` and `group` are settings of every message of a type. Where only some messages have one,
//! leave the setting out and call `.key(..)` or `.group(..)` on the draft of those.
//!
//! # Handlers
//! `#[job]` and `#[subscriber]` go on a free `async fn` without generics. Its first parameter is
//! the payload, owned; every other one is an extractor (`Data<T>`, `Lease`, `Attempt`, ...), and it
//! returns `outbox::Result`, `outbox::Outcome` or `()`. Its future must be `Send`.
//!
//! The function stays as it is and can be called in a test like any other. Beside it appears an
//! empty struct with the same name and visibility, which implements `Handler`: types and functions
//! have separate namespaces, so `welcome(user).await` is the function and
//! `register::<welcome>()` is the struct, and one `use` imports both. `#[cfg]` and `#[doc(hidden)]`
//! on the function count for the struct too.

mod args;
#[cfg(test)]
mod expansions;
mod function;
mod handler;
mod job;
mod message;
mod problems;
mod subscriber;
mod values;

use proc_macro::TokenStream;

/// Makes an `async fn` a unit of work that can be enqueued: a job.
///
/// The struct beside the function has the constants `KIND`, `QUEUE` and `MAX_ATTEMPTS`, and the
/// function `job(payload)`, which drafts a message. The payload is any type that can be written and
/// read by serde, is `Send` and owns what it holds; a job without one takes `_: ()`.
///
/// The settings are listed in the [crate's documentation](crate#settings).
///
/// # Examples
/// ```
/// # extern crate outbox_core as outbox;
/// # use outbox_macros::job;
/// # use serde::{Deserialize, Serialize};
/// # struct Smtp;
/// # impl Smtp { async fn greet(&self, _: &NewUser) -> std::io::Result<()> { Ok(()) } }
/// use outbox::Data;
///
/// #[derive(Serialize, Deserialize)]
/// struct NewUser {
///     name: String,
/// }
///
/// #[job(queue = "mail", max_attempts = 8, timeout = "5s")]
/// async fn welcome(user: NewUser, Data(smtp): Data<Smtp>) -> outbox::Result {
///     smtp.greet(&user).await?;
///     Ok(())
/// }
///
/// # fn main() {
/// let draft = welcome::job(NewUser { name: "Ann".to_owned() }).key("welcome-ann");
/// # assert!(draft.check(1024).is_ok());
/// assert_eq!(welcome::KIND, "welcome");
/// # }
/// ```
///
/// # Expansion
/// Beside the function, the example becomes:
/// ```
/// # extern crate outbox_core as outbox;
/// # use std::{borrow::Cow, time::Duration};
/// # use outbox::*;
/// # struct Smtp;
/// # impl Smtp { async fn greet(&self, _: &NewUser) -> std::io::Result<()> { Ok(()) } }
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct NewUser { name: String }
/// # async fn welcome(user: NewUser, Data(smtp): Data<Smtp>) -> outbox::Result {
/// #     smtp.greet(&user).await?;
/// #     Ok(())
/// # }
/// #[allow(non_camel_case_types)]
/// struct welcome {}
///
/// impl welcome {
///     const KIND: &'static str = "welcome";
///     const QUEUE: &'static str = "mail";
///     const MAX_ATTEMPTS: u16 = 8;
///
///     fn job(payload: NewUser) -> Draft {
///         Draft::json(Self::QUEUE, Self::KIND, &payload).max_attempts(Self::MAX_ATTEMPTS)
///     }
/// }
///
/// impl Handler for welcome {
///     fn definition() -> Definition {
///         Definition::new("welcome", Self::QUEUE)
///             .kinds(vec![Cow::Borrowed(Self::KIND)])
///             .timeout(Duration::from_secs(5))
///             .location(concat!(file!(), ":", line!()))
///     }
///
///     fn requires(requirements: &mut Requirements) {
///         <Data<Smtp> as FromContext>::requires(requirements);
///     }
///
///     fn call(context: Context) -> BoxFuture<'static, Outcome> {
///         Box::pin(async move {
///             let user = match context.decode::<NewUser>() {
///                 Ok(value) => value,
///                 Err(failure) => return failure.into_outcome(),
///             };
///             let smtp = match <Data<Smtp> as FromContext>::from_context(&context) {
///                 Ok(value) => value,
///                 Err(failure) => return failure.into_outcome(),
///             };
///             welcome(user, smtp).await.into_outcome()
///         })
///     }
/// }
/// # fn main() {
/// # let draft = welcome::job(NewUser { name: "Ann".to_owned() });
/// # assert_eq!(draft.check(1024).map(|new| new.max_attempts).ok(), Some(8));
/// # assert_eq!(welcome::definition().queue, "mail");
/// # }
/// ```
#[proc_macro_attribute]
pub fn job(args: TokenStream, item: TokenStream) -> TokenStream {
    job::expand(args.into(), item.into()).into()
}

/// Makes an `async fn` listen to a queue for one type of message.
///
/// Its first parameter is a type with [`#[derive(Message)]`](derive@Message), which also says the
/// kinds and, unless `queue` does, the queue. With `max_attempts` the subscriber decides how often
/// a message may run, whatever the message says. The other settings are listed in the [crate's
/// documentation](crate#settings).
///
/// # Examples
/// ```
/// # extern crate outbox_core as outbox;
/// # use outbox_macros::{Message, subscriber};
/// # use serde::{Deserialize, Serialize};
/// use outbox::Lease;
///
/// #[derive(Serialize, Deserialize, Message)]
/// #[message(kind = "order.placed", queue = "orders")]
/// struct OrderPlaced {
///     id: i64,
/// }
///
/// #[subscriber(queue = "orders", lease_ttl_seconds = 30)]
/// async fn reserve(order: OrderPlaced, lease: Lease) -> outbox::Result {
///     println!("order {} under fence {}", order.id, lease.fence());
///     Ok(())
/// }
/// # fn main() {
/// # use outbox::Handler;
/// # assert_eq!(reserve::definition().kinds, ["order.placed"]);
/// # }
/// ```
///
/// # Expansion
/// The struct and its `impl Handler` are those of a [job](macro@job#expansion), without constants
/// and `job(..)`. The kinds come from the message:
/// ```
/// # extern crate outbox_core as outbox;
/// # use std::{borrow::Cow, time::Duration};
/// # use outbox::{Definition, Message};
/// # #[derive(serde::Serialize, serde::Deserialize, outbox_macros::Message)]
/// # struct OrderPlaced { id: i64 }
/// # struct Reserve;
/// # impl Reserve {
/// fn definition() -> Definition {
///     Definition::new("reserve", "orders")
///         .kinds(
///             std::iter::once(&OrderPlaced::KIND)
///                 .chain(OrderPlaced::aliases())
///                 .map(|&kind| Cow::Borrowed(kind))
///                 .collect(),
///         )
///         .lease_ttl(Duration::from_secs(30))
///         .location(concat!(file!(), ":", line!()))
/// }
/// # }
/// # fn main() { assert_eq!(Reserve::definition().kinds, ["order_placed"]); }
/// ```
#[proc_macro_attribute]
pub fn subscriber(args: TokenStream, item: TokenStream) -> TokenStream {
    subscriber::expand(args.into(), item.into()).into()
}

/// Makes a struct or an enum a message: an event that can be enqueued, decoupled from whoever
/// handles it.
///
/// The type needs serde's `Serialize` and `Deserialize` too, and has no generics: every message of
/// a kind has the same type. The settings are listed in the [crate's
/// documentation](crate#settings).
///
/// The kind is stored with every message. By default it is the type's name in snake case, never
/// its path, so that moving the type orphans nothing; after renaming it, keep the old name in
/// `kind` or `aliases`.
///
/// # Examples
/// ```
/// # extern crate outbox_core as outbox;
/// # use outbox_macros::Message;
/// # use serde::{Deserialize, Serialize};
/// use outbox::Message as _;
///
/// #[derive(Serialize, Deserialize, Message)]
/// #[message(kind = "order.placed", queue = "orders", group = self.customer)]
/// struct OrderPlaced {
///     id: i64,
///     customer: i64,
/// }
///
/// # fn main() {
/// let order = OrderPlaced { id: 7, customer: 3 };
/// assert_eq!(order.group().as_deref(), Some("3"));
/// let draft = order.after(std::time::Duration::from_secs(300)).key("order-7");
/// # assert!(draft.check(1024).is_ok());
/// # }
/// ```
///
/// # Expansion
/// ```
/// # extern crate outbox_core as outbox;
/// # use outbox::Message;
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct OrderPlaced { id: i64, customer: i64 }
/// impl Message for OrderPlaced {
///     const KIND: &'static str = "order.placed";
///     const QUEUE: &'static str = "orders";
///
///     fn group(&self) -> Option<String> {
///         Some(ToString::to_string(&self.customer))
///     }
/// }
/// # fn main() { assert!(OrderPlaced { id: 7, customer: 3 }.key().is_none()); }
/// ```
#[proc_macro_derive(Message, attributes(message))]
pub fn derive_message(item: TokenStream) -> TokenStream {
    message::expand(item.into()).into()
}
