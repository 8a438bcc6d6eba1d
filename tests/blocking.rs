//! Handlers that misbehave towards their runtime: they block its threads, or compete for a pool
//! that is too small. Leases do not suffer, and nothing waits for itself.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use outbox::postgres::PgStorage;
use outbox::{Attempt, Data, MessageId, Source, job};
use sqlx::PgPool;
use support::{claim, count, database, effect, messages, run_until_idle, storage};

const SECOND: Duration = Duration::from_secs(1);

/// Handlers that block a thread at this moment, and the most there were.
#[derive(Default)]
struct Blocked {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// Blocks its thread for three leases.
#[job(queue = "blocking", lease_ttl = "2s")]
async fn block(
    _: (),
    id: MessageId,
    attempt: Attempt,
    Data(blocked): Data<Blocked>,
    Data(pool): Data<PgPool>,
) -> outbox::Result {
    let now = blocked.now.fetch_add(1, Ordering::SeqCst) + 1;
    blocked.most.fetch_max(now, Ordering::SeqCst);
    std::thread::sleep(SECOND * 6);
    blocked.now.fetch_sub(1, Ordering::SeqCst);
    effect(&pool, id.0, attempt.number, "blocking").await?;
    Ok(())
}

/// Tries to take over expired leases, all the time and on a runtime of its own, and returns how
/// many it got.
fn vulture(url: String, end: Arc<AtomicBool>) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime is made");
    runtime.block_on(async {
        let storage = PgStorage::connect(&url).await.expect("Postgres answers");
        let mut pace = tokio::time::interval(SECOND / 50);
        let mut taken = 0;
        while !end.load(Ordering::SeqCst) {
            pace.tick().await;
            let claimed = claim(&storage, "blocking", SECOND, Source::Expired).await;
            taken += claimed.messages.len() + claimed.dead.len();
        }
        taken
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_block_every_thread_for_three_leases_lose_none() {
    let database = database().await;
    let storage = storage(&database).await;
    let pool = database.pool(2).await.expect("Postgres answers");
    let outbox = storage.outbox();
    let mut tx = pool.begin().await.expect("a transaction begins");
    let drafts = (0..4).map(|_| block::job(()));
    outbox.enqueue_many(&mut tx, drafts).await.expect("written");
    tx.commit().await.expect("it commits");
    let end = Arc::new(AtomicBool::new(false));
    let (url, ended) = (database.url(), Arc::clone(&end));
    let vulture = std::thread::spawn(move || vulture(url, ended));

    let blocked = Arc::new(Blocked::default());
    let worker = outbox::tokio::worker(storage)
        .shared_data(Arc::clone(&blocked))
        .data(pool)
        .concurrency(4)
        .register::<block>();
    let report = run_until_idle(worker).await;
    end.store(true, Ordering::SeqCst);

    let taken = vulture.join().expect("it does not panic");
    assert_eq!(taken, 0, "no lease ever ended");
    assert_eq!(
        blocked.most.load(Ordering::SeqCst),
        2,
        "every thread was blocked"
    );
    assert_eq!(
        (report.done, report.lease_lost, report.reclaimed),
        (4, 0, 0)
    );
    assert_eq!(messages(&database).await, 0);
    let once = "select count(*) from effect where attempt = 1";
    assert_eq!(count(&database, once).await, 4);
    assert_eq!(count(&database, "select count(*) from effect").await, 4);
}

/// Takes a connection of the only one there is, and keeps it for a while.
#[job(queue = "narrow", lease_ttl = "2s")]
async fn compete(
    _: (),
    id: MessageId,
    attempt: Attempt,
    Data(pool): Data<PgPool>,
) -> outbox::Result {
    let mut tx = pool.begin().await?;
    sqlx::query("select pg_sleep(0.1)")
        .execute(&mut *tx)
        .await?;
    sqlx::query("insert into effect (message_id, attempt, worker) values ($1, $2, 'narrow')")
        .bind(id.0)
        .bind(i32::from(attempt.number))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}

#[tokio::test]
async fn sixteen_handlers_share_the_one_connection_of_the_callers_pool() {
    let database = database().await;
    let storage = storage(&database).await;
    let pool = database.pool(1).await.expect("Postgres answers");
    let outbox = storage.outbox();
    let mut tx = pool.begin().await.expect("a transaction begins");
    let drafts = (0..48).map(|_| compete::job(()));
    outbox.enqueue_many(&mut tx, drafts).await.expect("written");
    tx.commit().await.expect("it commits");
    let worker = outbox::tokio::worker(storage)
        .data(pool)
        .concurrency(16)
        .register::<compete>();
    let report = run_until_idle(worker).await;
    // 48 turns of 100 ms are two leases and more: whoever waits for the pool is renewed.
    assert_eq!((report.done, report.retried, report.lease_lost), (48, 0, 0));
    assert_eq!(
        count(&database, "select count(*) from effect where attempt = 1").await,
        48
    );
    assert_eq!(messages(&database).await, 0);
}
