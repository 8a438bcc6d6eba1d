//! From the caller's transaction to the handler, through the facade and its macros: what commits
//! is delivered, what does not never existed, and mistakes are told with their remedy.

mod support;

use std::sync::Arc;
use std::time::Duration;

use outbox::postgres::PgOutbox;
use outbox::prelude::*;
use outbox::{Event, Report};
use outbox_testkit::postgres::TestDatabase;
use serde::{Deserialize, Serialize};
use sqlx::{Acquire, PgPool};
use support::LISTENING;
use support::{
    Running, count, database, dead_letters, effect, eventually, messages, run_until_idle, storage,
    within,
};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const SECOND: Duration = Duration::from_secs(1);

/// What handlers tell the test.
type Teller = UnboundedSender<String>;

#[derive(Serialize, Deserialize)]
struct NewUser {
    name: String,
}

#[job(queue = "mail", max_attempts = 3)]
async fn welcome(user: NewUser, attempt: Attempt, Data(told): Data<Teller>) -> outbox::Result {
    told.send(format!(
        "welcome {} {}/{}",
        user.name, attempt.number, attempt.of
    ))?;
    Ok(())
}

#[derive(Serialize, Deserialize, Message)]
#[message(kind = "order.placed", queue = "orders", key = self.id)]
struct OrderPlaced {
    id: i64,
}

#[subscriber(queue = "orders", lease_ttl_seconds = 30)]
async fn reserve(
    order: OrderPlaced,
    headers: Headers,
    lease: Lease,
    Data(told): Data<Teller>,
) -> outbox::Result {
    let from = headers.get("from").unwrap_or("nobody");
    told.send(format!(
        "order {} from {from}, fence {}",
        order.id,
        lease.fence()
    ))?;
    Ok(())
}

async fn worker(database: &TestDatabase) -> (outbox::Worker, UnboundedReceiver<String>) {
    let (teller, told) = unbounded_channel();
    let worker = outbox::tokio::worker(storage(database).await)
        .data::<Teller>(teller)
        .register::<welcome>()
        .register::<reserve>();
    (worker, told)
}

/// Everything that was told, sorted.
fn all(told: &mut UnboundedReceiver<String>) -> Vec<String> {
    let mut all: Vec<String> = std::iter::from_fn(|| told.try_recv().ok()).collect();
    all.sort();
    all
}

fn user(name: &str) -> Draft {
    welcome::job(NewUser {
        name: name.to_owned(),
    })
}

#[tokio::test]
async fn jobs_and_messages_are_delivered_if_and_only_if_their_transaction_commits() {
    let database = database().await;
    let pool = database.pool(1).await.expect("Postgres answers");
    let outbox = PgOutbox::new();

    let mut tx = pool.begin().await.expect("it begins");
    outbox.enqueue(&mut tx, user("ann")).await.expect("written");
    let order = OrderPlaced { id: 7 }.draft().header("from", "shop");
    outbox.enqueue(&mut tx, order).await.expect("written");
    assert_eq!(messages(&database).await, 0, "nobody sees them yet");
    tx.commit().await.expect("it commits");

    let mut tx = pool.begin().await.expect("it begins");
    outbox
        .enqueue(&mut tx, user("ghost"))
        .await
        .expect("written");
    outbox
        .enqueue_many(&mut tx, [OrderPlaced { id: 8 }])
        .await
        .expect("written");
    tx.rollback().await.expect("it rolls back");

    let mut tx = pool.begin().await.expect("it begins");
    let mut savepoint = tx.begin().await.expect("a savepoint");
    outbox
        .enqueue(&mut savepoint, user("phantom"))
        .await
        .expect("written");
    savepoint.rollback().await.expect("it rolls back");
    let mut savepoint = tx.begin().await.expect("a savepoint");
    outbox
        .enqueue(&mut savepoint, user("bob"))
        .await
        .expect("written");
    savepoint.commit().await.expect("it is released");
    outbox
        .enqueue(&mut tx, OrderPlaced { id: 9 })
        .await
        .expect("written");
    tx.commit().await.expect("it commits");

    let (worker, mut told) = worker(&database).await;
    let report = run_until_idle(worker).await;
    assert_eq!((report.started, report.done), (4, 4));
    assert_eq!(
        all(&mut told),
        [
            "order 7 from shop, fence 1",
            "order 9 from nobody, fence 1",
            "welcome ann 1/3",
            "welcome bob 1/3",
        ]
    );
    assert_eq!(messages(&database).await, 0);
}

#[tokio::test]
async fn an_enqueue_wakes_an_idle_worker_long_before_its_poll() {
    let database = database().await;
    let pool = database.pool(1).await.expect("Postgres answers");
    let (worker, mut told) = worker(&database).await;
    let running = Running::start(worker.poll_interval(SECOND * 600));
    eventually(&database, &format!("exists ({LISTENING})")).await;
    // Twice: the first may coincide with the hint the listener gives when it connects.
    for name in ["ann", "bob"] {
        let mut tx = pool.begin().await.expect("it begins");
        PgOutbox::new()
            .enqueue(&mut tx, user(name))
            .await
            .expect("written");
        tx.commit().await.expect("it commits");
        let started = within("it starts", told.recv()).await;
        assert_eq!(started, Some(format!("welcome {name} 1/3")));
    }
    running.stop().await;
}

#[job(queue = "mail", max_attempts = 2)]
async fn hesitate(
    _: (),
    attempt: Attempt,
    lease: Lease,
    Data(told): Data<Teller>,
) -> outbox::Result {
    told.send(format!(
        "attempt {}, fence {}",
        attempt.number,
        lease.fence()
    ))?;
    match lease.fence() {
        1 => Err(Failure::snooze(SECOND / 20)),
        2 => Err(Failure::retry_in(SECOND / 20, "not yet")),
        _ => Err(Failure::retry("never")),
    }
}

#[tokio::test]
async fn what_a_worker_puts_off_runs_when_it_is_due_and_not_at_the_next_poll() {
    let database = database().await;
    let (teller, mut told) = unbounded_channel();
    let worker = outbox::tokio::worker(storage(&database).await)
        .data::<Teller>(teller)
        .poll_interval(SECOND * 600)
        .register::<hesitate>();
    let mut connection = database.connect().await.expect("Postgres answers");
    PgOutbox::new()
        .enqueue(&mut connection, hesitate::job(()))
        .await
        .expect("written");
    let running = Running::start(worker);
    for expected in [
        "attempt 1, fence 1",
        "attempt 1, fence 2",
        "attempt 2, fence 3",
    ] {
        let ran = within(expected, told.recv()).await;
        assert_eq!(ran.as_deref(), Some(expected));
    }
    eventually(
        &database,
        "exists (select from outbox.dead_letter where reason = 'exhausted')",
    )
    .await;
    let Report {
        snoozed,
        retried,
        dead,
        ..
    } = running.stop().await;
    assert_eq!((snoozed, retried, dead), (1, 1, 1));
    assert_eq!(
        (messages(&database).await, dead_letters(&database).await),
        (0, 1)
    );
}

#[job(queue = "shared")]
async fn share(
    _: (),
    id: MessageId,
    attempt: Attempt,
    Data(pool): Data<PgPool>,
    Data(name): Data<&'static str>,
) -> outbox::Result {
    effect(&pool, id.0, attempt.number, *name).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_share_a_queue_and_no_message_runs_twice() {
    let database = database().await;
    let pool = database.pool(8).await.expect("Postgres answers");
    let mut connection = database.connect().await.expect("Postgres answers");
    let start = async |name: &'static str| {
        let worker = outbox::tokio::worker(storage(&database).await)
            .data(pool.clone())
            .data(name)
            .concurrency(16)
            .register::<share>();
        Running::start(worker)
    };
    let (left, right) = (start("left").await, start("right").await);
    let listen = format!("(select count(*) from ({LISTENING}) as listening) = 2");
    eventually(&database, &listen).await;
    for _ in 0..20 {
        let drafts = (0..100).map(|_| share::job(()));
        PgOutbox::new()
            .enqueue_many(&mut connection, drafts)
            .await
            .expect("written");
    }
    eventually(&database, "not exists (select from outbox.message)").await;
    let (left, right) = (left.stop().await, right.stop().await);
    assert_eq!(left.done + right.done, 2000);
    assert_eq!((left.lease_lost, right.lease_lost), (0, 0));
    assert_eq!(count(&database, "select count(*) from effect").await, 2000);
    let distinct = "select count(distinct message_id) from effect";
    assert_eq!(count(&database, distinct).await, 2000);
    let workers = "select count(distinct worker) from effect";
    assert_eq!(count(&database, workers).await, 2, "both had their share");
}

#[tokio::test]
async fn events_are_told_after_the_write_they_speak_of() {
    let database = database().await;
    let mut connection = database.connect().await.expect("Postgres answers");
    PgOutbox::new()
        .enqueue(&mut connection, user("ann"))
        .await
        .expect("written");
    let (worker, _told) = worker(&database).await;
    let (sender, mut settled) = unbounded_channel();
    let worker = worker.observe(move |event| {
        if let Event::Settled { message, .. } = event {
            let _ = sender.send(message.id);
        }
    });
    let running = Running::start(worker);
    let id = within("it is settled", settled.recv())
        .await
        .expect("an id");
    let left = format!("select count(*) from outbox.message where id = {id}");
    assert_eq!(count(&database, &left).await, 0);
    running.stop().await;
}

#[tokio::test]
async fn a_key_has_one_live_message_and_a_new_one_after_it() {
    let database = database().await;
    let mut connection = database.connect().await.expect("Postgres answers");
    let outbox = Arc::new(PgOutbox::new());
    let first = outbox
        .enqueue(&mut connection, OrderPlaced { id: 1 })
        .await
        .expect("written");
    assert!(first.id().is_some());
    let second = outbox
        .enqueue(&mut connection, OrderPlaced { id: 1 })
        .await
        .expect("it answers");
    assert_eq!(second.id(), None);
    let (first_worker, mut told) = worker(&database).await;
    run_until_idle(first_worker).await;
    let third = outbox
        .enqueue(&mut connection, OrderPlaced { id: 1 })
        .await
        .expect("written");
    assert!(third.id().is_some());
    let (second_worker, mut told_again) = worker(&database).await;
    run_until_idle(second_worker).await;
    let order = ["order 1 from nobody, fence 1"];
    assert_eq!(
        (all(&mut told), all(&mut told_again)),
        (
            order.map(String::from).to_vec(),
            order.map(String::from).to_vec()
        )
    );
}

#[tokio::test]
async fn transactions_that_enqueue_the_same_keys_in_opposite_orders_deadlock() {
    let database = database().await;
    let pool = database.pool(2).await.expect("Postgres answers");
    let outbox = PgOutbox::new();
    let order = |id| OrderPlaced { id };
    let mut first = pool.begin().await.expect("it begins");
    let mut second = pool.begin().await.expect("it begins");
    let written = outbox.enqueue(&mut first, order(1)).await;
    written.expect("written");
    let written = outbox.enqueue(&mut second, order(2)).await;
    written.expect("written");
    let crossing = outbox.clone();
    let crossing = tokio::spawn(async move {
        let answer = crossing.enqueue(&mut first, order(2)).await;
        (answer, first)
    });
    let blocked = database.wait_until_blocked("%").await;
    blocked.expect("the first waits for the second");
    let answer = outbox.enqueue(&mut second, order(1)).await;
    let (crossed, first) = within("one is aborted", crossing)
        .await
        .expect("it does not panic");
    // The server chooses which; the other one goes on.
    let (aborted, going_on) = match (answer, crossed) {
        (Err(aborted), Ok(_)) => {
            second.rollback().await.expect("it rolls back");
            (aborted, first)
        }
        (Ok(_), Err(aborted)) => {
            first.rollback().await.expect("it rolls back");
            (aborted, second)
        }
        both => panic!("one is aborted and one goes on: {both:?}"),
    };
    assert!(aborted.is_transient(), "it can be repeated: {aborted}");
    going_on.commit().await.expect("it commits");
    assert_eq!(
        messages(&database).await,
        2,
        "of one transaction, and whole"
    );
}

#[job(queue = "mail", lease_ttl = "1h")]
async fn linger(
    forever: bool,
    Data(told): Data<Teller>,
    Data(gate): Data<Semaphore>,
) -> outbox::Result {
    told.send("started".to_owned())?;
    if forever {
        std::future::pending::<()>().await;
    }
    let _open = gate.acquire().await?;
    Ok(())
}

#[tokio::test]
async fn a_cancelled_message_is_given_back_even_if_the_storage_is_slow_just_then() {
    let database = database().await;
    let mut connection = database.connect().await.expect("Postgres answers");
    let drafts = [linger::job(false), linger::job(true)];
    let written = PgOutbox::new().enqueue_many(&mut connection, drafts).await;
    written.expect("they are written");
    let (teller, mut told) = unbounded_channel();
    let (cancel, mut cancelled) = unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let worker = outbox::tokio::worker(storage(&database).await)
        .data::<Teller>(teller)
        .shared_data(Arc::clone(&gate))
        .grace(Duration::ZERO)
        .register::<linger>()
        .observe(move |event| {
            if let Event::DrainTimedOut { running } = event {
                let _ = cancel.send(*running);
            }
        });
    let running = Running::start(worker);
    for _ in 0..2 {
        within("both run", told.recv()).await.expect("it is told");
    }
    let row = "select from outbox.message where payload = 'false' for update";
    let lock = database.lock_rows(row).await.expect("it is locked");
    gate.add_permits(1);
    let settling = lock.wait_until_blocking().await;
    settling.expect("the settle waits for the lock");
    running.handle.shutdown();
    let left = within("the other is cancelled", cancelled.recv()).await;
    assert_eq!(left, Some(1));
    lock.release().await.expect("the lock is released");
    let report = running.stop().await;
    assert_eq!((report.done, report.released), (1, 1));
    let held = "select count(*) from outbox.message where acquired_token is not null";
    assert_eq!(
        (messages(&database).await, count(&database, held).await),
        (1, 0)
    );
}
