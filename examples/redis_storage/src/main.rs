//! Greets users through Redis: `cargo run -p outbox-example-redis`.
//!
//! Greetings are enqueued, some of them twice under one key. A worker delivers them, retries what
//! fails at first, and gives up on what cannot succeed. At the end Redis must agree with the
//! worker.
#![allow(clippy::print_stdout, reason = "an example shows what it did")]

mod server;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outbox_core::{
    BoxFuture, Context, DEFAULT_MAX_PAYLOAD_BYTES, Definition, Draft, Failure, Handler,
    IntoOutcome, LeaseToken, Outcome, Requirements, RetryPolicy, Storage,
};
use outbox_example_redis::RedisStorage;
use redis::{Connection, Script};
use server::Server;

const USERS: u64 = 500;

/// How many runs came to their end.
#[derive(Default)]
struct Delivered(AtomicU64);

/// What `#[job]` writes for its function, written by hand.
struct Greet;

impl Handler for Greet {
    fn definition() -> Definition {
        Definition::new("greet", "mail")
            .kinds(vec!["greet".into()])
            .retry(RetryPolicy::exponential(
                Duration::from_millis(50),
                Duration::from_millis(500),
            ))
    }

    fn requires(requirements: &mut Requirements) {
        requirements.data::<Delivered>();
    }

    fn call(context: Context) -> BoxFuture<'static, Outcome> {
        Box::pin(async move { greet(&context).into_outcome() })
    }
}

fn greet(context: &Context) -> outbox_core::Result {
    let user: u64 = context.decode()?;
    match (user, context.message().attempt) {
        (n, _) if n % 50 == 3 => Err(Failure::dead("there is no such mailbox")),
        (n, _) if n % 100 == 42 => Err(Failure::retry("the mail server is down, as always")),
        (n, 1) if n % 7 == 1 => Err(Failure::retry("the mail server is busy")),
        _ => {
            let delivered = context.data().find::<Delivered>();
            delivered.map(|delivered| delivered.0.fetch_add(1, Ordering::Relaxed));
            Ok(())
        }
    }
}

fn greeting(user: u64) -> Draft {
    Draft::json("mail", "greet", &user)
        .key(format!("greet-{user}"))
        .max_attempts(3)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::find()?;
    let prefix = format!("outbox_example:{}:", LeaseToken::random());
    let storage = Arc::new(RedisStorage::connect(server.url(), &prefix).await?);
    let ran = run(storage, &server, &prefix).await;
    // Whatever became of it, nothing of it stays.
    let remove =
        "for _, key in ipairs(redis.call('keys', KEYS[1] .. '*')) do redis.call('del', key) end";
    let () = Script::new(remove)
        .key(&prefix)
        .invoke(&mut connection(&server)?)?;
    ran
}

async fn run(
    storage: Arc<RedisStorage>,
    server: &Server,
    prefix: &str,
) -> Result<(), Box<dyn Error>> {
    let (mut enqueued, mut duplicates) = (0, 0);
    for user in (1..=USERS).chain(1..=USERS / 10) {
        let message = greeting(user).check(DEFAULT_MAX_PAYLOAD_BYTES)?;
        match storage.enqueue(vec![message]).await?[..] {
            [Some(_)] => enqueued += 1,
            _ => duplicates += 1,
        }
    }

    let delivered = Arc::new(Delivered::default());
    let report = outbox_tokio::shared_worker(storage)
        .shared_data(Arc::clone(&delivered))
        .register::<Greet>()
        .run_until_idle(Duration::from_secs(1))
        .await?;

    // What Redis says, which is what counts.
    let counts = "return { redis.call('zcard', KEYS[1] .. 'dead'),
        #redis.call('keys', KEYS[1] .. 'dead:*'), #redis.call('keys', KEYS[1] .. 'message:*'),
        #redis.call('keys', KEYS[1] .. '*') }";
    let mut connection = connection(server)?;
    let (dead, letters, left, keys): (u64, u64, u64, u64) =
        Script::new(counts).key(prefix).invoke(&mut connection)?;
    let delivered = delivered.0.load(Ordering::Relaxed);

    println!("enqueued   {enqueued:>5}  greetings");
    println!("duplicates {duplicates:>5}  refused: their key had a live message");
    println!("delivered  {delivered:>5}");
    println!(
        "retried    {:>5}  attempts that failed and ran again",
        report.retried
    );
    println!("dead       {dead:>5}  given up, kept in Redis");
    check(
        "enqueued + duplicates",
        enqueued + duplicates,
        USERS + USERS / 10,
    )?;
    check("delivered + dead + left", delivered + dead + left, enqueued)?;
    check("left", left, 0)?;
    check("dead letters", letters, dead)?;
    // The dead letters, the list of them, and the last id: nothing else is left behind.
    check("keys", keys, dead + 2)?;
    check("done, by the worker", report.done, delivered)?;
    check("dead, by the worker", report.dead, dead)?;
    println!("it adds up: {delivered} + {dead} = {enqueued}, nothing is left");
    Ok(())
}

fn connection(server: &Server) -> redis::RedisResult<Connection> {
    redis::Client::open(server.url())?.get_connection()
}

fn check(what: &str, found: u64, expected: u64) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what} is {found}, not {expected}"))
}
