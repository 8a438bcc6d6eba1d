//! Workers on one SQLite file: processes that share it and die, and a runtime that does not come
//! round to its workers.

mod support;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use outbox::sqlite::{SqliteOutbox, SqliteStorage};
use outbox::{Attempt, ClaimRequest, Context, Data, MessageId, QueueLease, Source, Storage, job};
use outbox_testkit::sqlite::TestFile;
use sqlx::SqliteConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqliteSynchronous};
use support::process::{Process, say, serve};
use support::run_until_idle;

const SECOND: Duration = Duration::from_secs(1);

/// One row for each run of a handler.
const EFFECT: &str = "create table effect (
    message_id integer not null,
    attempt    integer not null,
    worker     text    not null
) strict";

/// A file with the outbox's tables and the table `effect`.
async fn file() -> TestFile {
    let file = TestFile::new().expect("there is a place for temporary files");
    storage(&file.url()).await.migrate().await.expect("made");
    file.execute(EFFECT).await.expect("the table is made");
    file
}

async fn storage(url: &str) -> SqliteStorage {
    SqliteStorage::connect(url).await.expect("it can be opened")
}

async fn count(file: &TestFile, sql: &str) -> i64 {
    let count = file.count(sql).await;
    count.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Writes a row into `effect`, in a transaction as a caller's would be.
async fn effect(
    pool: &SqlitePool,
    id: MessageId,
    attempt: Attempt,
    worker: &str,
) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin_with("begin immediate").await?;
    sqlx::query("insert into effect (message_id, attempt, worker) values ($1, $2, $3)")
        .bind(id.0)
        .bind(attempt.number)
        .bind(worker)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

/// Handlers that run at once in a worker that will be killed.
const SLOTS: usize = 4;

/// What a worker process knows about itself.
struct Life {
    pool: SqlitePool,
    name: String,
    /// How many messages it finishes before it holds everything it takes.
    left: AtomicI64,
    held: AtomicUsize,
}

/// Holds some of the messages that were never lost before: half of them before their effect, half
/// between effect and settle. The lease is long enough for a machine that is busy elsewhere: one
/// that nobody killed must not end.
#[job(queue = "work", lease_ttl = "3s")]
async fn work(
    number: i64,
    context: Context,
    attempt: Attempt,
    Data(life): Data<Life>,
) -> outbox::Result {
    let first = context.message().lease_losses == 0;
    let holds = first && life.left.fetch_sub(1, Ordering::SeqCst) <= 0;
    if !holds || number % 2 == 0 {
        effect(&life.pool, context.message().id, attempt, &life.name).await?;
    }
    if holds {
        if life.held.fetch_add(1, Ordering::SeqCst) + 1 == SLOTS {
            say("holding");
        }
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// The worker processes of this file. Each goes on until it is told to finish, and then until
/// nothing is left for it.
#[test]
fn worker_process() {
    serve(|mut assignment| async move {
        let quota = match assignment.role.as_str() {
            "doomed" => 8,
            _ => i64::MAX,
        };
        let url = assignment.given.clone();
        let options: SqliteConnectOptions = url.parse().expect("it is a URL");
        // Who waits for whom must not depend on how long this machine's disk takes for a sync.
        let options = options.synchronous(SqliteSynchronous::Normal);
        let life = Arc::new(Life {
            pool: SqlitePool::connect_with(options).await.expect("it opens"),
            name: assignment.name.clone(),
            left: AtomicI64::new(quota),
            held: AtomicUsize::new(0),
        });
        let worker = async || {
            outbox::tokio::worker(storage(&url).await)
                .shared_data(Arc::clone(&life))
                .concurrency(SLOTS)
                .prefetch(0)
                .register::<work>()
        };
        let first = worker().await.run_until(assignment.told("finish")).await;
        let first = first.expect("the worker ends well");
        let last = run_until_idle(worker().await).await;
        let errors = first.storage_errors + last.storage_errors;
        say(&format!("errors {errors}"));
        say(&format!("retried {}", first.retried + last.retried));
    });
}

/// Enqueues while others work.
struct Caller {
    connection: SqliteConnection,
    written: i64,
}

impl Caller {
    async fn new(file: &TestFile) -> Self {
        Self {
            connection: file.connect().await.expect("it opens"),
            written: 0,
        }
    }

    async fn write(&mut self) {
        let numbers = (0..50).map(work::job);
        let enqueued = SqliteOutbox::new()
            .enqueue_many(&mut self.connection, numbers)
            .await;
        assert_eq!(enqueued.expect("written").len(), 50);
        self.written += 50;
    }

    /// Never lets the queue run dry, and never makes it long, until this is over.
    async fn write_until(&mut self, over: impl Future) {
        let mut over = pin!(over);
        let mut pace = tokio::time::interval(SECOND / 100);
        loop {
            tokio::select! {
                _ = &mut over => return,
                _ = pace.tick() => {}
            }
            let live = sqlx::query_scalar("select count(*) from outbox_message");
            let live: i64 = live
                .fetch_one(&mut self.connection)
                .await
                .expect("it reads");
            if live < 100 {
                self.write().await;
            }
        }
    }
}

#[tokio::test]
async fn two_processes_share_a_file_and_one_that_is_killed_loses_nothing() {
    let file = file().await;
    let mut caller = Caller::new(&file).await;
    caller.write().await;
    // Works beside those that die.
    let mut steady = Process::start("steady", "steady", &file.url());
    for kill in 0..5 {
        let mut doomed = Process::start("doomed", &format!("doomed-{kill}"), &file.url());
        // However late it begins, there is something left for it.
        caller.write_until(doomed.hear("holding")).await;
        doomed.kill();
    }
    let written = caller.written;
    steady.tell("finish");
    assert_eq!(steady.hear("errors ").await, "0", "nobody was locked out");
    assert_eq!(steady.hear("retried ").await, "0", "nor any handler");
    assert!(steady.ended().await.success());

    let live = "select count(*) from outbox_message";
    assert_eq!(count(&file, live).await, 0, "everything was settled");
    let dead = "select count(*) from outbox_dead_letter";
    assert_eq!(count(&file, dead).await, 0, "nobody was to blame");
    let handled = "select count(distinct message_id) from effect";
    assert_eq!(count(&file, handled).await, written);
    let charged = "select count(*) from effect where attempt <> 1";
    assert_eq!(count(&file, charged).await, 0, "a death charges no attempt");
    // Those held before their effect, and those held after it, ran again elsewhere.
    let repeated = count(&file, "select count(*) from effect").await - written;
    assert!((1..=20).contains(&repeated), "{repeated} ran twice");
    let twice = "select count(*) from (
        select 1 from effect group by message_id having count(distinct worker) > 1)";
    assert_eq!(count(&file, twice).await, repeated);
    let whole = "select count(*) from pragma_integrity_check where integrity_check = 'ok'";
    assert_eq!(count(&file, whole).await, 1, "the file is whole");
}

/// Handlers that block a thread at this moment, and the most there were.
#[derive(Default)]
struct Blocked {
    now: AtomicUsize,
    most: AtomicUsize,
    done: AtomicUsize,
}

/// Blocks its thread for three leases.
#[job(queue = "blocking", lease_ttl = "2s")]
async fn block(_: (), Data(blocked): Data<Blocked>) -> outbox::Result {
    let now = blocked.now.fetch_add(1, Ordering::SeqCst) + 1;
    blocked.most.fetch_max(now, Ordering::SeqCst);
    std::thread::sleep(SECOND * 6);
    blocked.now.fetch_sub(1, Ordering::SeqCst);
    blocked.done.fetch_add(1, Ordering::SeqCst);
    Ok(())
}

/// Tries to take over expired leases, all the time and on a runtime of its own, and returns how
/// many it got.
fn vulture(url: &str, end: &AtomicBool) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime is made");
    runtime.block_on(async {
        let storage = storage(url).await;
        let mut pace = tokio::time::interval(SECOND / 50);
        let mut taken = 0;
        while !end.load(Ordering::SeqCst) {
            pace.tick().await;
            let queues = vec![QueueLease::new("blocking", SECOND)];
            let request = ClaimRequest::new(queues, 100, Source::Expired);
            let claim = storage.claim(&request).await.expect("it answers");
            taken += claim.messages.len() + claim.dead.len();
        }
        taken
    })
}

/// The one write lock of the file must not stay with a runtime that is blocked: renewals need it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_block_every_thread_for_three_leases_lose_none() {
    let file = file().await;
    let outbox = SqliteOutbox::new();
    let mut caller = file.connect().await.expect("it opens");
    let drafts = (0..6).map(|_| block::job(()));
    outbox
        .enqueue_many(&mut caller, drafts)
        .await
        .expect("written");
    let end = Arc::new(AtomicBool::new(false));
    let (url, ended) = (file.url(), Arc::clone(&end));
    let vulture = std::thread::spawn(move || vulture(&url, &ended));

    let blocked = Arc::new(Blocked::default());
    let worker = outbox::tokio::worker(storage(&file.url()).await)
        .shared_data(Arc::clone(&blocked))
        .concurrency(4)
        .register::<block>();
    let report = run_until_idle(worker).await;
    end.store(true, Ordering::SeqCst);

    let taken = vulture.join().expect("it does not panic");
    assert_eq!(taken, 0, "no lease ever ended");
    let most = blocked.most.load(Ordering::SeqCst);
    assert_eq!(most, 2, "every thread was blocked");
    let counted = (report.done, report.lease_lost, report.storage_errors);
    assert_eq!(counted, (6, 0, 0));
    assert_eq!(blocked.done.load(Ordering::SeqCst), 6);
}

/// Takes a message at once: the commit of the caller wakes the worker.
#[job(queue = "quick")]
async fn quick(_: (), Data(done): Data<tokio::sync::Notify>) -> outbox::Result {
    done.notify_one();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_wakes_an_idle_worker_long_before_its_poll() {
    let file = file().await;
    let done = Arc::new(tokio::sync::Notify::new());
    let worker = outbox::tokio::worker(storage(&file.url()).await)
        .shared_data(Arc::clone(&done))
        .poll_interval(Duration::from_secs(3600))
        .register::<quick>();
    let running = support::Running::start(worker);
    let mut caller = file.connect().await.expect("it opens");
    for _ in 0..20 {
        let enqueued = SqliteOutbox::new()
            .enqueue(&mut caller, quick::job(()))
            .await;
        assert!(enqueued.expect("written").id().is_some());
        support::within("a worker is woken", done.notified()).await;
    }
    let report = running.stop().await;
    assert_eq!((report.done, report.storage_errors), (20, 0));
}
