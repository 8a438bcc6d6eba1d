//! Workers that die: nothing is lost, what they held runs again within the lease and a poll, and
//! a message that kills its workers neither lives for ever nor takes others with it.

mod support;

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use outbox::{Attempt, Context, Data, MessageId, Worker, job};
use outbox_testkit::postgres::TestDatabase;
use sqlx::PgPool;
use support::process::{Assignment, Process, say, serve};
use support::{count, database, dead_letters, effect, messages, storage};

/// Handlers that run at once in a worker that will be killed.
const SLOTS: usize = 8;
/// What such a worker finishes before it holds everything it takes.
const QUOTA: i64 = 24;

/// What a worker process knows about itself.
struct Life {
    pool: PgPool,
    name: String,
    left: AtomicI64,
    held: AtomicUsize,
}

impl Life {
    async fn begin(assignment: &Assignment, quota: i64) -> Self {
        Self {
            pool: sqlx::postgres::PgPoolOptions::new()
                .max_connections(4)
                .connect(&assignment.url)
                .await
                .expect("Postgres answers"),
            name: assignment.name.clone(),
            left: AtomicI64::new(quota),
            held: AtomicUsize::new(0),
        }
    }

    /// Never returns: the process is killed while all its slots are here.
    async fn hold(&self) {
        if self.held.fetch_add(1, Ordering::SeqCst) + 1 == SLOTS {
            say("holding");
        }
        std::future::pending().await
    }
}

/// Holds some of the messages that were never lost before: half of them before their effect, half
/// between effect and settle.
#[job(queue = "work", lease_ttl = "2s")]
async fn work(
    number: i64,
    context: Context,
    attempt: Attempt,
    Data(life): Data<Life>,
) -> outbox::Result {
    let first = context.message().lease_losses == 0;
    let holds = first && life.left.fetch_sub(1, Ordering::SeqCst) <= 0;
    if holds && number % 2 == 0 {
        life.hold().await;
    }
    effect(
        &life.pool,
        context.message().id.0,
        attempt.number,
        &life.name,
    )
    .await?;
    if holds {
        life.hold().await;
    }
    Ok(())
}

#[job(queue = "poison", lease_ttl = "1s")]
async fn swallow(
    poisonous: bool,
    id: MessageId,
    attempt: Attempt,
    Data(life): Data<Life>,
) -> outbox::Result {
    if poisonous {
        say("poisoned");
        std::process::abort();
    }
    effect(&life.pool, id.0, attempt.number, &life.name).await?;
    Ok(())
}

/// The worker processes of this file.
#[test]
fn worker_process() {
    serve(|assignment| async move {
        let role = assignment.role.as_str();
        // Without prefetch a worker whose slots are all held has nothing else leased.
        let (quota, doomed) = match role {
            "doomed" => (QUOTA, true),
            _ => (i64::MAX, false),
        };
        let life = Life::begin(&assignment, quota).await;
        let storage = outbox::postgres::PgStorage::connect(&assignment.url)
            .await
            .expect("Postgres answers");
        let worker: Worker = outbox::tokio::worker(storage).data(life);
        let worker = match role {
            "swallow" => worker.register::<swallow>(),
            _ => worker.register::<work>(),
        };
        let worker = if doomed {
            worker.concurrency(SLOTS).prefetch(0)
        } else {
            worker
        };
        worker
            .run_until_idle(Duration::ZERO)
            .await
            .expect("the worker ends well");
        say("idle");
    });
}

async fn enqueue<M: outbox::IntoDraft>(database: &TestDatabase, drafts: Vec<M>) {
    let mut connection = database.connect().await.expect("Postgres answers");
    let outbox = storage(database).await.outbox();
    outbox
        .enqueue_many(&mut connection, drafts)
        .await
        .expect("the messages are written");
}

/// Notes what the worker that was just killed had leased.
const NOTE_HELD: &str = "
    insert into held (id, token, lease_expires_at, killed_at)
    select id, acquired_token, lease_expires_at, clock_timestamp()
    from outbox.message
    where acquired_token is not null
    on conflict do nothing";

#[tokio::test]
async fn fifty_killed_workers_lose_nothing_and_their_messages_run_again_in_time() {
    let database = database().await;
    enqueue(&database, (0..2000_i64).map(work::job).collect()).await;
    database
        .execute(
            "create table held (id bigint, token uuid, lease_expires_at timestamptz,
             killed_at timestamptz, primary key (id, token))",
        )
        .await
        .expect("the table is made");
    for kill in 1..=50 {
        let mut worker = Process::start("doomed", &format!("doomed-{kill}"), &database.url());
        worker.hear("holding").await;
        worker.kill();
        database.execute(NOTE_HELD).await.expect("they are noted");
        let held = count(&database, "select count(*) from held").await;
        assert!(
            held >= kill * 8,
            "kill {kill} met {held} held messages in all"
        );
    }
    let mut last = Process::start("heir", "heir", &database.url());
    last.hear("idle").await;
    assert!(last.ended().await.success());

    assert_eq!(messages(&database).await, 0, "everything was settled");
    assert_eq!(dead_letters(&database).await, 0, "nobody was to blame");
    let handled = "select count(distinct message_id) from effect";
    assert_eq!(count(&database, handled).await, 2000);
    let charged = "select count(*) from effect where attempt <> 1";
    assert_eq!(
        count(&database, charged).await,
        0,
        "a death charges no attempt"
    );
    let workers = "select count(distinct worker) from effect";
    assert_eq!(
        count(&database, workers).await,
        51,
        "each under its own name"
    );
    // Held between effect and settle, so that the next holder repeats the effect.
    let repeated = count(&database, "select count(*) - 2000 from effect").await;
    assert!(
        repeated >= 100,
        "only {repeated} were held after their effect"
    );

    let never = "select count(*) from held where not exists (
        select from effect where message_id = held.id and started_at > held.killed_at)";
    assert_eq!(
        count(&database, never).await,
        0,
        "each ran after its holder's death"
    );
    let long = "select count(*) from held where lease_expires_at > killed_at + interval '2 s'";
    assert_eq!(count(&database, long).await, 0, "a lease is 2 seconds");
    let late =
        "select (extract(epoch from max(again.started_at - held.lease_expires_at)) * 1000)::bigint
        from held cross join lateral (
            select min(started_at) as started_at from effect
            where message_id = held.id and started_at > held.killed_at) as again";
    let late = count(&database, late).await;
    // A poll is 1 second; the rest is for a machine that is busy with other tests.
    assert!(
        late <= 3000,
        "a message waited {late} ms after its lease had ended"
    );
}

#[tokio::test]
async fn a_message_that_kills_its_workers_becomes_a_dead_letter_and_harms_no_other() {
    let database = database().await;
    enqueue(&database, (0..101).map(|n| swallow::job(n == 50)).collect()).await;
    let mut deaths = 0;
    loop {
        let worker = Process::start("swallow", &format!("eater-{deaths}"), &database.url());
        if worker.ended().await.success() {
            break;
        }
        deaths += 1;
        assert!(deaths <= 3, "the poison goes on killing workers");
    }
    assert_eq!(deaths, 3);
    assert_eq!(messages(&database).await, 0);
    let poison = "select count(*) from outbox.dead_letter
        where payload = 'true' and reason = 'crashed' and lease_losses = 3 and attempts = 1";
    assert_eq!(count(&database, poison).await, 1);
    assert_eq!(dead_letters(&database).await, 1, "and it alone");
    let innocents = "select count(distinct message_id) from effect";
    assert_eq!(count(&database, innocents).await, 100);
    let charged = "select count(*) from effect where attempt > 1";
    assert_eq!(
        count(&database, charged).await,
        0,
        "a death charges no attempt"
    );
}
