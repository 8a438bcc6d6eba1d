//! Dropped futures: a call that is polled a few times and dropped leaves no half state, no lease
//! that cannot be had again, and no connection that does not work.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outbox::postgres::{PgOutbox, PgStorage};
use outbox::{
    Attempt, Cancel, Data, Draft, Health, MessageId, Renewal, Settlement, Source, Storage, Verdict,
    Worker, job,
};
use outbox_testkit::drop_after;
use outbox_testkit::postgres::{Server, TestDatabase};
use sqlx::PgPool;
use support::{
    Running, count, database, effect, eventually, messages, request, run_until_idle, storage,
    within,
};

/// No call of ours needs as many polls.
const POLLS: std::ops::Range<usize> = 0..30;
const TTL: Duration = Duration::from_secs(60);

fn draft(polls: usize) -> Draft {
    Draft::json("dropped", "dropped", &polls)
}

/// Nothing of an earlier, dropped call is still at work in the server.
async fn until_quiet(database: &TestDatabase) {
    let quiet = "not exists (select from pg_stat_activity where datname = current_database()
        and state <> 'idle' and pid <> pg_backend_pid() and backend_type = 'client backend')";
    eventually(database, quiet).await;
}

#[tokio::test]
async fn a_dropped_enqueue_or_cancel_is_rolled_back_and_the_pool_goes_on() {
    let database = database().await;
    let outbox = PgOutbox::new();
    // One connection: the next user gets the one the drop left behind.
    let pool = database.pool(1).await.expect("Postgres answers");
    let mut tx = pool.begin().await.expect("a transaction begins");
    let kept = outbox.enqueue(&mut tx, draft(99).key("kept")).await;
    let kept = kept.expect("it is written").id().expect("it is new");
    tx.commit().await.expect("it commits");
    let mut completed = [0; 3];
    for polls in POLLS {
        for (call, completed) in completed.iter_mut().enumerate() {
            let mut tx = pool.begin().await.expect("the pool goes on");
            *completed += usize::from(match call {
                0 => drop_after(polls, outbox.enqueue(&mut tx, draft(polls)))
                    .await
                    .is_some(),
                1 => {
                    let drafts = (0..100).map(draft);
                    drop_after(polls, outbox.enqueue_many(&mut tx, drafts))
                        .await
                        .is_some()
                }
                _ => drop_after(polls, outbox.cancel(&mut tx, kept))
                    .await
                    .is_some(),
            });
            drop(tx);
            let mut tx = pool.begin().await.expect("the pool goes on");
            let again = outbox.enqueue(&mut tx, draft(polls).key("kept")).await;
            assert_eq!(
                again.expect("it answers").id(),
                None,
                "the cancel was rolled back"
            );
            tx.rollback().await.expect("it rolls back");
            assert_eq!(messages(&database).await, 1, "call {call}, {polls} polls");
        }
    }
    for (call, completed) in completed.into_iter().enumerate() {
        // Both kinds: dropped on the way, and at its end.
        assert!(
            (1..POLLS.end).contains(&completed),
            "call {call}: {completed}"
        );
    }
    let mut connection = pool.acquire().await.expect("the pool goes on");
    assert_eq!(
        outbox
            .cancel(&mut connection, kept)
            .await
            .expect("it answers"),
        Cancel::Cancelled
    );
}

#[tokio::test]
async fn a_dropped_claim_is_resumed_or_taken_over() {
    let database = database().await;
    let storage = storage(&database).await;
    let mut dropped = 0;
    for polls in POLLS {
        let drafts = (0..3).map(|n| draft(n).check(1024).expect("it is a good message"));
        let written = storage.enqueue(drafts.collect()).await.expect("written");
        let ids: BTreeSet<MessageId> = written.into_iter().flatten().collect();
        let mut asked = request("dropped", TTL, Source::Pending);
        asked.limit = 2;
        dropped += usize::from(drop_after(polls, storage.claim(&asked)).await.is_none());
        let resumed = storage.claim(&asked.resumed()).await.expect("it answers");
        assert_eq!(resumed.messages.len(), 2, "{polls} polls");
        until_quiet(&database).await;
        // What a late claim of the dropped call leased ends with its lease.
        database.expire_leases("outbox").await.expect("they expire");
        let mut found = BTreeSet::new();
        for source in [Source::Expired, Source::Pending] {
            let claim = storage.claim(&request("dropped", TTL, source)).await;
            let claim = claim.expect("it answers");
            assert_eq!(claim.dead, []);
            let settlements: Vec<_> = claim.messages.iter().map(|m| done(m.id, m.token)).collect();
            let settled = storage
                .settle(&settlements)
                .await
                .expect("it answers")
                .written;
            assert_eq!(settled.len(), settlements.len());
            found.extend(settled);
        }
        assert_eq!(found, ids, "{polls} polls");
        assert_eq!(messages(&database).await, 0);
    }
    assert!((1..POLLS.end).contains(&dropped), "{dropped}");
}

fn done(id: MessageId, token: outbox::LeaseToken) -> Settlement {
    Settlement::new(outbox::Held { id, token }, Verdict::Done)
}

#[tokio::test]
async fn a_dropped_settle_or_renew_is_whole_or_nothing() {
    let database = database().await;
    let storage = storage(&database).await;
    let mut dropped = 0;
    for polls in POLLS {
        let drafts = (0..3).map(|n| draft(n).check(1024).expect("it is a good message"));
        storage.enqueue(drafts.collect()).await.expect("written");
        let claim = support::claim(&storage, "dropped", TTL, Source::Pending).await;
        assert_eq!(claim.messages.len(), 3);
        let renewals: Vec<_> = claim
            .messages
            .iter()
            .map(|message| Renewal::new(message.held(), TTL * 2))
            .collect();
        dropped += usize::from(drop_after(polls, storage.renew(&renewals)).await.is_none());
        until_quiet(&database).await;
        let renewed = storage.renew(&renewals).await.expect("it answers");
        assert_eq!(
            (renewed.renewed.len(), renewed.lost.len()),
            (3, 0),
            "{polls} polls"
        );

        let settlements: Vec<_> = claim.messages.iter().map(|m| done(m.id, m.token)).collect();
        dropped += usize::from(
            drop_after(polls, storage.settle(&settlements))
                .await
                .is_none(),
        );
        until_quiet(&database).await;
        let left = messages(&database).await;
        assert!(left == 0 || left == 3, "{left} after {polls} polls");
        let again = storage
            .settle(&settlements)
            .await
            .expect("it answers")
            .written;
        assert_eq!(again.len() as i64, left, "{polls} polls");
        assert_eq!(messages(&database).await, 0);
    }
    assert!((1..2 * POLLS.end).contains(&dropped), "{dropped}");
}

#[tokio::test]
async fn a_dropped_migrate_leaves_the_whole_schema_or_none() {
    let database = Server::shared()
        .database()
        .await
        .expect("a database is made");
    let mut dropped = 0;
    for polls in POLLS {
        let storage = storage(&database).await;
        dropped += usize::from(drop_after(polls, storage.migrate()).await.is_none());
        until_quiet(&database).await;
        let tables = "select count(*) from pg_tables where schemaname = 'outbox'";
        let before = count(&database, tables).await;
        storage.migrate().await.expect("it can be repeated");
        storage.verify_schema().await.expect("it is whole");
        let after = count(&database, tables).await;
        assert!(
            before == 0 || before == after,
            "{before} tables after {polls} polls"
        );
        let drop = "drop schema outbox cascade";
        database.execute(drop).await.expect("it is dropped");
    }
    assert!((1..POLLS.end).contains(&dropped), "{dropped}");
}

#[tokio::test]
async fn a_dropped_connect_or_check_leaves_a_storage_that_works() {
    let database = database().await;
    let mut dropped = 0;
    for polls in POLLS {
        let url = database.url();
        dropped += usize::from(drop_after(polls, PgStorage::connect(&url)).await.is_none());
        let storage = storage(&database).await;
        dropped += usize::from(drop_after(polls, storage.check()).await.is_none());
        dropped += usize::from(drop_after(polls, storage.verify_schema()).await.is_none());
        storage.verify_schema().await.expect("it answers");
    }
    assert!((1..3 * POLLS.end).contains(&dropped), "{dropped}");
    // Every storage above is gone, and so are the connections of the dropped calls.
    let gone = "not exists (select from pg_stat_activity
        where datname = current_database() and application_name = 'outbox')";
    eventually(&database, gone).await;
}

/// Every other one waits until its worker is gone.
#[job(queue = "dropped", kind = "number")]
async fn number(
    number: i64,
    id: MessageId,
    attempt: Attempt,
    Data(pool): Data<PgPool>,
    Data(patient): Data<bool>,
) -> outbox::Result {
    if *patient && number % 2 == 1 {
        std::future::pending::<()>().await;
    }
    effect(&pool, id.0, attempt.number, "dropped").await?;
    Ok(())
}

async fn worker(database: &TestDatabase, pool: &PgPool, patient: bool) -> Worker {
    outbox::tokio::worker(storage(database).await)
        .data(pool.clone())
        .data(patient)
        .register::<number>()
}

#[tokio::test]
async fn a_worker_dropped_after_any_of_its_events_gives_everything_back() {
    let database = database().await;
    let pool = database.pool(4).await.expect("Postgres answers");
    for events in POLLS {
        let mut tx = pool.begin().await.expect("a transaction begins");
        let drafts = (0..10).map(number::job);
        PgOutbox::new()
            .enqueue_many(&mut tx, drafts)
            .await
            .expect("written");
        tx.commit().await.expect("it commits");
        let seen = Arc::new(AtomicUsize::new(0));
        let observed = Arc::clone(&seen);
        let dropped = worker(&database, &pool, true).await.observe(move |_| {
            observed.fetch_add(1, Ordering::SeqCst);
        });
        // 2 claims, 10 starts and 5 settles are all that can come.
        let enough = async {
            while seen.load(Ordering::SeqCst) < events.min(17) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            report = dropped.run() => panic!("it ended: {report:?}"),
            () = within("the worker gets on", enough) => {}
        }
        // It shuts down in the background, and closes what it opened when it is done.
        let ended = "not exists (select from pg_stat_activity
            where datname = current_database() and application_name = 'outbox')";
        eventually(&database, ended).await;
        let held = "select count(*) from outbox.message where acquired_token is not null";
        assert_eq!(count(&database, held).await, 0, "after {events} events");
        let charged =
            "select count(*) from outbox.message where attempts <> 0 or lease_losses <> 0";
        assert_eq!(count(&database, charged).await, 0, "after {events} events");
        let report = run_until_idle(worker(&database, &pool, false).await).await;
        assert!(report.done >= 5, "those that waited run now");
        assert_eq!(messages(&database).await, 0);
        let handled = "select count(distinct message_id) from effect";
        let expected = 10 * (events as i64 + 1);
        assert_eq!(count(&database, handled).await, expected);
    }
}

#[tokio::test]
async fn a_worker_dropped_as_it_starts_stops_and_its_handle_says_so() {
    let database = database().await;
    let pool = database.pool(2).await.expect("Postgres answers");
    let patient = worker(&database, &pool, true).await;
    let prepared = patient.prepare().expect("it is configured well");
    let handle = prepared.handle();
    drop(drop_after(1, prepared.run_until(std::future::pending())).await);
    let stopped = async {
        while handle.health() != Health::Stopped {
            tokio::task::yield_now().await;
        }
    };
    within("the worker stops", stopped).await;
    // And the next one is not disturbed by it.
    let running = Running::start(worker(&database, &pool, false).await);
    let mut connection = pool.acquire().await.expect("Postgres answers");
    PgOutbox::new()
        .enqueue(&mut connection, number::job(1))
        .await
        .expect("written");
    eventually(&database, "exists (select from effect)").await;
    running.stop().await;
}
