//! Every public future, dropped after each number of polls: no half state, no lost message, no
//! unusable connection.
#![allow(clippy::unwrap_used)]

mod support;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use outbox_core::{DeadReason, Renewal, Storage, Verdict};
use outbox_sqlx::{DeadLetterQuery, PgOutbox, PgStorage};
use sqlx::{Connection, PgConnection};
use support::{claim, database, execute, expired, fill, ids, message, number, pending, settle_all};

/// More polls than any call takes.
const MOST_POLLS: usize = 200;
/// A call that completes on its first poll this often does not wait for the server at all.
const ROUNDS: usize = 1_000;

/// Polls a future at most `polls` times, as its runtime would, and drops it.
async fn poll_times<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// Returns when no statement of ours is running any more.
async fn settled_down(observer: &mut PgConnection) {
    let running = "select count(*) from pg_stat_activity
        where datname = current_database() and application_name = 'outbox' and state = 'active'";
    while number(observer, running).await != 0 {
        tokio::task::yield_now().await;
    }
}

const MESSAGES: &str = "select count(*) from outbox.message";
const LEASED: &str = "select count(*) from outbox.message where acquired_token is not null";
const DEAD: &str = "select count(*) from outbox.dead_letter";

/// Runs `step` with a growing number of polls until the call under test completes, and again where
/// the server was so fast that no poll had to wait.
async fn with_every_drop(mut step: impl AsyncFnMut(usize) -> bool) {
    for _ in 0..ROUNDS {
        let mut polls = 0;
        while !step(polls).await {
            polls += 1;
            assert!(polls < MOST_POLLS, "the call does not complete");
        }
        if polls > 1 {
            return;
        }
    }
    panic!("the call was never interrupted");
}

#[tokio::test]
async fn connect() {
    let database = database().await;
    with_every_drop(async |polls| {
        let connecting = PgStorage::connect_with(database.options());
        poll_times(polls, connecting).await.is_some_and(|storage| {
            storage.unwrap();
            true
        })
    })
    .await;
}

#[tokio::test]
async fn migrate_and_verify() {
    let database = database().await;
    let mut observer = database.connect().await;
    let storage = database.unmigrated().await;
    with_every_drop(async |polls| {
        let done = poll_times(polls, storage.migrate()).await;
        settled_down(&mut observer).await;
        let tables = "select count(*) from pg_tables where schemaname = 'outbox'";
        let tables = number(&mut observer, tables).await;
        assert!(tables == 0 || tables == 3, "{tables} tables");
        storage.migrate().await.unwrap();
        storage.verify_schema().await.unwrap();
        let completed = done.is_some();
        if !completed {
            execute(&mut observer, "drop schema outbox cascade").await;
        }
        completed
    })
    .await;
    with_every_drop(async |polls| {
        let done = poll_times(polls, storage.verify_schema()).await;
        storage.check().await.unwrap();
        done.is_some()
    })
    .await;
    with_every_drop(async |polls| {
        let storage = database.unmigrated().await;
        let done = poll_times(polls, storage.check()).await;
        storage.check().await.unwrap();
        done.is_some()
    })
    .await;
}

#[tokio::test]
async fn enqueue_and_cancel_in_a_transaction() {
    let database = database().await;
    database.storage().await;
    let outbox = PgOutbox::new();
    let mut observer = database.connect().await;
    let mut ours = database.connect().await;
    with_every_drop(async |polls| {
        let mut tx = ours.begin().await.unwrap();
        let done = poll_times(polls, outbox.enqueue(&mut tx, message("q"))).await;
        tx.rollback().await.unwrap();
        assert_eq!(number(&mut observer, MESSAGES).await, 0);
        done.is_some()
    })
    .await;
    // A new connection has no prepared statements, which makes for more polls.
    let mut ours = database.connect().await;
    with_every_drop(async |polls| {
        let mut tx = ours.begin().await.unwrap();
        let many = outbox.enqueue_many(&mut tx, [message("q"), message("q")]);
        let done = poll_times(polls, many).await;
        tx.rollback().await.unwrap();
        assert_eq!(number(&mut observer, MESSAGES).await, 0);
        done.is_some()
    })
    .await;
    let kept = message("q").key("k");
    let id = outbox.enqueue(&mut observer, kept).await.unwrap().id();
    let mut ours = database.connect().await;
    with_every_drop(async |polls| {
        let mut tx = ours.begin().await.unwrap();
        let done = poll_times(polls, outbox.cancel(&mut tx, id.unwrap())).await;
        tx.rollback().await.unwrap();
        assert_eq!(number(&mut observer, MESSAGES).await, 1);
        done.is_some()
    })
    .await;
    let mut ours = database.connect().await;
    with_every_drop(async |polls| {
        let mut tx = ours.begin().await.unwrap();
        let done = poll_times(polls, outbox.cancel_key(&mut tx, "q", "k")).await;
        tx.rollback().await.unwrap();
        assert_eq!(number(&mut observer, MESSAGES).await, 1);
        done.is_some()
    })
    .await;
    let mut ours = database.connect().await;
    with_every_drop(async |polls| {
        let mut tx = ours.begin().await.unwrap();
        let done = poll_times(polls, outbox.announce(&mut tx, &["q"])).await;
        tx.rollback().await.unwrap();
        done.is_some()
    })
    .await;
}

#[tokio::test]
async fn enqueue_of_the_storage() {
    let database = database().await;
    database.storage().await;
    let mut observer = database.connect().await;
    with_every_drop(async |polls| {
        let storage = database.unmigrated().await;
        let messages = || vec![message("q").check(100).unwrap(); 3];
        let done = poll_times(polls, storage.enqueue(messages())).await;
        settled_down(&mut observer).await;
        let written = number(&mut observer, MESSAGES).await;
        assert!(written == 0 || written == 3, "{written} messages");
        assert_eq!(storage.enqueue(messages()).await.unwrap().len(), 3);
        execute(&mut observer, "truncate outbox.message").await;
        done.is_some()
    })
    .await;
}

#[tokio::test]
async fn claim_of_pending_messages_and_of_expired_leases() {
    let database = database().await;
    database.storage().await;
    let mut observer = database.connect().await;
    for lapsed in [false, true] {
        with_every_drop(async |polls| {
            let storage = database.unmigrated().await;
            fill(&mut observer, "q", 5).await;
            let request = if lapsed {
                claim(&storage, &pending("q", 5)).await;
                support::expire(&mut observer).await;
                expired("q", 2)
            } else {
                pending("q", 2)
            };
            let done = poll_times(polls, storage.claim(&request)).await;
            settled_down(&mut observer).await;
            let ours = format!("{MESSAGES} where acquired_token = '{}'", request.token);
            let leased = number(&mut observer, &ours).await;
            assert!(leased == 0 || leased == 2, "{leased} leased");
            let again = claim(&storage, &request.clone().resumed()).await;
            assert_eq!(again.messages.len(), 2);
            assert_eq!(number(&mut observer, &ours).await, 2);
            execute(&mut observer, "truncate outbox.message").await;
            done.is_some()
        })
        .await;
    }
}

#[tokio::test]
async fn settle() {
    let database = database().await;
    database.storage().await;
    let mut observer = database.connect().await;
    with_every_drop(async |polls| {
        let storage = database.unmigrated().await;
        fill(&mut observer, "q", 3).await;
        let claimed = claim(&storage, &pending("q", 3)).await;
        let mut settlements = settle_all(&claimed, &Verdict::Done);
        settlements[1].verdict = Verdict::Release;
        settlements[2].verdict = Verdict::Dead {
            reason: DeadReason::Rejected,
            error: String::new(),
        };
        let done = poll_times(polls, storage.settle(&settlements)).await;
        settled_down(&mut observer).await;
        let state = (
            number(&mut observer, MESSAGES).await,
            number(&mut observer, LEASED).await,
            number(&mut observer, DEAD).await,
        );
        assert!(state == (3, 3, 0) || state == (1, 0, 1), "{state:?}");
        let again = storage.settle(&settlements).await.unwrap().written;
        assert_eq!(again.len(), if state.1 == 3 { 3 } else { 0 });
        execute(
            &mut observer,
            "truncate outbox.message; truncate outbox.dead_letter",
        )
        .await;
        done.is_some()
    })
    .await;
}

#[tokio::test]
async fn renew() {
    let database = database().await;
    let holder = database.storage().await;
    let mut observer = database.connect().await;
    fill(&mut observer, "q", 1).await;
    let claimed = claim(&holder, &pending("q", 1)).await;
    let renewals = [Renewal::new(
        claimed.messages[0].held(),
        Duration::from_secs(60),
    )];
    with_every_drop(async |polls| {
        let storage = database.unmigrated().await;
        let done = poll_times(polls, storage.renew(&renewals)).await;
        settled_down(&mut observer).await;
        assert_eq!(number(&mut observer, LEASED).await, 1);
        let renewed = storage.renew(&renewals).await.unwrap();
        assert_eq!(renewed.renewed, ids(&claimed));
        done.is_some()
    })
    .await;
}

#[tokio::test]
async fn dead_letter_verbs() {
    let database = database().await;
    let storage = database.storage().await;
    let mut observer = database.connect().await;
    with_every_drop(async |polls| {
        let storage = database.unmigrated().await;
        fill(&mut observer, "q", 1).await;
        let claimed = claim(&storage, &pending("q", 1)).await;
        let verdict = Verdict::Dead {
            reason: DeadReason::Rejected,
            error: String::new(),
        };
        let settlements = settle_all(&claimed, &verdict);
        storage.settle(&settlements).await.unwrap();
        let done = poll_times(polls, storage.revive(ids(&claimed)[0])).await;
        settled_down(&mut observer).await;
        let state = (
            number(&mut observer, MESSAGES).await,
            number(&mut observer, DEAD).await,
        );
        assert!(state == (0, 1) || state == (1, 0), "{state:?}");
        storage.revive(ids(&claimed)[0]).await.unwrap();
        assert_eq!(number(&mut observer, MESSAGES).await, 1);
        execute(&mut observer, "truncate outbox.message").await;
        done.is_some()
    })
    .await;
    with_every_drop(async |polls| {
        let all = DeadLetterQuery::all();
        let done = poll_times(polls, storage.dead_letters(&all)).await;
        storage.dead_letters(&all).await.unwrap();
        done.is_some()
    })
    .await;
    let storage = database.unmigrated().await;
    with_every_drop(async |polls| {
        let purge = || storage.purge_dead_letters(None, Duration::ZERO);
        let done = poll_times(polls, purge()).await;
        purge().await.unwrap();
        done.is_some()
    })
    .await;
}

#[tokio::test]
async fn settle_while_the_server_works_on_it() {
    let database = database().await;
    let storage = database.storage().await;
    let (mut other, mut observer) = (database.connect().await, database.connect().await);
    fill(&mut observer, "q", 2).await;
    let claimed = claim(&storage, &pending("q", 2)).await;
    execute(
        &mut other,
        "begin; select from outbox.message order by id offset 1 for update",
    )
    .await;
    let settlements = settle_all(&claimed, &Verdict::Done);
    {
        let settling = pin!(storage.settle(&settlements));
        let waiting = pin!(support::until_waiting(&mut observer, 1));
        let first = futures_util::future::select(settling, waiting).await;
        assert!(matches!(first, futures_util::future::Either::Right(_)));
    }
    let locked = number(&mut observer, LEASED).await;
    assert_eq!(locked, 2, "half a settle is visible");
    // The next call does not run into what the dropped one left.
    let more = claim(&storage, &pending("q", 2)).await;
    assert_eq!(ids(&more), []);
    execute(&mut other, "rollback").await;
    settled_down(&mut observer).await;
    storage.settle(&settlements).await.unwrap();
    assert_eq!(number(&mut observer, MESSAGES).await, 0);
}
