//! What generated handlers do: their definitions, the drafts of jobs, and one run of each kind.
#![warn(clippy::pedantic, clippy::nursery, unused_qualifications)]
#![allow(
    clippy::unused_async,
    reason = "handlers are async even if they never wait"
)]

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use outbox_core::{
    Attempt, BoxFuture, Claimed, Context, Data, DataMap, Definition, Draft, Failure, Handler, Held,
    Lease, LeaseToken, Message, MessageId, NewMessage, OrFail, Outcome, Requirements, RetryPolicy,
    Runtime,
};
use outbox_macros::{Message, job, subscriber};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct NewUser {
    name: String,
}

struct Smtp {
    greeting: &'static str,
}

const WELCOME_LINE: u32 = line!() + 3;

/// Answers with its arguments, so that a test sees what reached it.
#[job(
    crate = outbox_core,
    kind = "mail.welcome",
    queue = "mail",
    max_attempts = 8,
    timeout = "500ms",
    lease_ttl_seconds = 60,
    retry = RetryPolicy::Fixed(Duration::from_secs(7)),
    aliases("welcome", "greet"),
    priority = -2
)]
async fn welcome(
    NewUser { name }: NewUser,
    smtp: Data<Smtp>,
    attempt: Attempt,
    lease: Lease,
) -> outbox_core::Result {
    let Attempt { number, of } = attempt;
    let text = format!(
        "{} {name}: {number} of {of}, fence {}",
        smtp.greeting,
        lease.fence()
    );
    Err(Failure::discard(text))
}

#[job(crate = outbox_core)]
async fn sweep((): ()) {}

#[job(crate = "outbox_core")]
async fn parse(text: String) -> outbox_core::Result<(), std::num::ParseIntError> {
    text.parse::<u64>().map(drop)
}

#[job(crate = outbox_core)]
async fn decide(seconds: u64) -> outbox_core::Result<Outcome> {
    if seconds == 0 {
        Err(std::io::Error::other("zero")).or_dead()?;
    }
    Ok(Outcome::Snooze(Duration::from_secs(seconds)))
}

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(
    crate = outbox_core,
    kind = "order.placed",
    queue = "orders",
    group = self.customer,
    key = format!("order-{}", self.id),
    max_attempts = 5,
    aliases("order.created")
)]
struct OrderPlaced {
    id: i64,
    customer: i64,
}

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(crate = outbox_core, group = match self { Self::Opened(id) | Self::Closed { id } => id })]
enum AccountChanged {
    Opened(u64),
    Closed { id: u64 },
}

#[subscriber(crate = outbox_core)]
async fn reserve(order: OrderPlaced, id: MessageId) -> Outcome {
    Outcome::Discard {
        error: format!("{order:?} as {id}").into(),
    }
}

#[subscriber(crate = outbox_core, queue = "audit", max_attempts = 2, lease_ttl = "2m", timeout_seconds = 5)]
async fn audit(_: AccountChanged) {}

/// A runtime for handlers that never ask for one.
struct Nothing;

impl Runtime for Nothing {
    fn spawn(&self, _: BoxFuture<'static, ()>) {}

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    fn spawn_thread(&self, _: &str, _: BoxFuture<'static, ()>) -> std::io::Result<()> {
        Ok(())
    }
}

fn context(payload: &str, data: DataMap) -> Context {
    let held = Held {
        id: MessageId(41),
        token: LeaseToken::random(),
    };
    let message = Claimed::new(held, "mail".into(), "any".into(), payload.into());
    let lease = Lease::new(held, 3);
    Context::new(message, lease, Arc::new(data), Arc::new(Nothing))
}

fn run<H: Handler>(payload: &str) -> Outcome {
    run_with::<H>(payload, DataMap::default())
}

fn run_with<H: Handler>(payload: &str, data: DataMap) -> Outcome {
    H::call(context(payload, data))
        .now_or_never()
        .expect("these handlers never wait")
}

fn written(draft: Draft) -> NewMessage {
    draft.check(1_000).expect("the draft is valid")
}

fn kinds(definition: &Definition) -> Vec<&str> {
    definition.kinds.iter().map(|kind| &**kind).collect()
}

fn required<H: Handler>() -> Vec<&'static str> {
    let mut requirements = Requirements::default();
    H::requires(&mut requirements);
    requirements.iter().map(|(_, name)| name).collect()
}

#[test]
fn every_setting_of_a_job_reaches_its_definition() {
    let definition = welcome::definition();
    assert_eq!(definition.name, "welcome");
    assert_eq!(definition.queue, "mail");
    assert_eq!(kinds(&definition), ["mail.welcome", "welcome", "greet"]);
    assert_eq!(definition.timeout, Some(Duration::from_millis(500)));
    assert_eq!(definition.lease_ttl, Duration::from_mins(1));
    assert!(matches!(
        definition.retry,
        RetryPolicy::Fixed(delay) if delay == Duration::from_secs(7)
    ));
    let (file, line) = definition.location.rsplit_once(':').expect("file:line");
    assert!(file.ends_with("tests/handlers.rs"), "{file}");
    assert_eq!(line, WELCOME_LINE.to_string());
}

#[test]
fn the_attempts_of_a_job_are_those_of_its_message() {
    assert_eq!(welcome::definition().max_attempts, None);
    assert_eq!(welcome::MAX_ATTEMPTS, 8);
    let user = NewUser { name: "Ann".into() };
    assert_eq!(written(welcome::job(user).max_attempts(2)).max_attempts, 2);
}

#[test]
fn a_plain_job_has_the_documented_defaults() {
    assert_eq!(sweep::KIND, "sweep");
    assert_eq!(sweep::QUEUE, "default");
    assert_eq!(sweep::MAX_ATTEMPTS, 10);
    let definition = sweep::definition();
    assert_eq!(kinds(&definition), ["sweep"]);
    assert_eq!(definition.lease_ttl, Duration::from_secs(30));
    assert_eq!(definition.timeout, None);
    assert_eq!(written(sweep::job(())).priority, 0);
}

#[test]
fn a_job_drafts_its_messages() {
    let new = written(welcome::job(NewUser { name: "Ann".into() }).key("ann"));
    assert_eq!(new.queue, "mail");
    assert_eq!(new.kind, "mail.welcome");
    assert_eq!(new.payload, br#"{"name":"Ann"}"#);
    assert_eq!(new.max_attempts, 8);
    assert_eq!(new.priority, -2);
    assert_eq!(new.key.as_deref(), Some("ann"));
}

#[test]
fn a_run_decodes_the_payload_and_fills_the_extractors() {
    let mut data = DataMap::default();
    data.insert(Arc::new(Smtp { greeting: "Hi" }));
    let outcome = run_with::<welcome>(r#"{"name":"Ann"}"#, data);
    let Outcome::Discard { error } = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(error.to_string(), "Hi Ann: 1 of 10, fence 3");
}

#[test]
fn the_data_a_handler_needs_is_known_before_it_runs() {
    let names = required::<welcome>();
    assert_eq!(names.len(), 1);
    assert!(names[0].ends_with("Smtp"), "{names:?}");
    assert!(required::<sweep>().is_empty());
}

#[test]
fn missing_data_fails_the_attempt() {
    let outcome = run::<welcome>(r#"{"name":"Ann"}"#);
    assert!(
        matches!(outcome, Outcome::Retry { after: None, .. }),
        "{outcome:?}"
    );
}

#[test]
fn an_undecodable_payload_never_reaches_the_function() {
    let outcome = run::<welcome>(r#"{"nom":"Ann"}"#);
    assert!(
        matches!(outcome, Outcome::Undecodable { .. }),
        "{outcome:?}"
    );
    assert!(matches!(run::<sweep>("7"), Outcome::Undecodable { .. }));
}

#[test]
fn what_a_function_returns_becomes_the_outcome() {
    assert!(matches!(run::<sweep>("null"), Outcome::Done));
    assert!(matches!(run::<parse>(r#""12""#), Outcome::Done));
    assert!(matches!(
        run::<parse>(r#""twelve""#),
        Outcome::Retry { after: None, .. }
    ));
    assert!(matches!(
        run::<decide>("9"),
        Outcome::Snooze(time) if time == Duration::from_secs(9)
    ));
    assert!(matches!(run::<decide>("0"), Outcome::Dead { .. }));
}

#[test]
fn the_function_is_still_called_as_written() {
    let called = parse("12".to_owned()).now_or_never();
    assert_eq!(called, Some(Ok(())));
}

#[test]
fn a_subscriber_listens_to_what_its_message_says() {
    let definition = reserve::definition();
    assert_eq!(definition.name, "reserve");
    assert_eq!(definition.queue, "orders");
    assert_eq!(kinds(&definition), ["order.placed", "order.created"]);
    assert_eq!(definition.max_attempts, None);
    assert_eq!(definition.lease_ttl, Duration::from_secs(30));
}

#[test]
fn the_settings_of_a_subscriber_win_over_its_message() {
    let definition = audit::definition();
    assert_eq!(definition.queue, "audit");
    assert_eq!(kinds(&definition), ["account_changed"]);
    assert_eq!(definition.max_attempts, Some(2));
    assert_eq!(definition.lease_ttl, Duration::from_mins(2));
    assert_eq!(definition.timeout, Some(Duration::from_secs(5)));
}

#[test]
fn a_subscriber_runs_its_message() {
    let outcome = run::<reserve>(r#"{"id":7,"customer":3}"#);
    let Outcome::Discard { error } = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(
        error.to_string(),
        "OrderPlaced { id: 7, customer: 3 } as 41"
    );
    assert!(matches!(run::<audit>(r#"{"Opened":4}"#), Outcome::Done));
}

#[test]
fn a_message_knows_its_kind_queue_group_and_key() {
    let order = OrderPlaced { id: 7, customer: 3 };
    let new = written(order.draft());
    assert_eq!(new.kind, "order.placed");
    assert_eq!(new.queue, "orders");
    assert_eq!(new.group.as_deref(), Some("3"));
    assert_eq!(new.key.as_deref(), Some("order-7"));
    assert_eq!(new.max_attempts, 5);
    assert_eq!(OrderPlaced::aliases(), ["order.created"]);
}

#[test]
fn a_message_without_settings_is_named_after_its_type() {
    assert_eq!(AccountChanged::KIND, "account_changed");
    assert_eq!(AccountChanged::QUEUE, "default");
    assert_eq!(AccountChanged::MAX_ATTEMPTS, 10);
    assert!(AccountChanged::aliases().is_empty());
    assert_eq!(AccountChanged::Opened(4).group().as_deref(), Some("4"));
    assert_eq!(
        AccountChanged::Closed { id: 5 }.group().as_deref(),
        Some("5")
    );
    assert_eq!(AccountChanged::Opened(4).key(), None);
}
