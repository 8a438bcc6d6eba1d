//! The one write lock: who waits for it, who does not, and what those are told who wait too long.

use std::pin::pin;
use std::time::Duration;

use outbox_core::{DeadReason, ErrorKind, MessageId, Renewal, Source, Storage, Verdict};
use outbox_sqlx::sqlite::SqliteOutbox;
use outbox_testkit::drop_after;
use sqlx::{Connection, Executor};

use crate::support::{
    DEAD, LEASED, MESSAGES, SPINS, assert_unlocked, claim, execute, expire, expired, fill, ids,
    message, migrated, number, pending, request, settlements, spin, storage_of,
};

#[tokio::test]
async fn every_call_waits_for_a_transaction_of_the_callers_and_then_succeeds() {
    let (file, storage) = migrated().await;
    let mut caller = file.connect().await.unwrap();
    fill(&mut caller, "q", 6).await;
    let held = claim(&storage, &pending("q", 2)).await;
    let renewal = Renewal::new(held.messages[0].held(), Duration::from_secs(60));
    let done = settlements(&held, &Verdict::Done);

    let tx = caller.begin_with("begin immediate").await.unwrap();
    let to_claim = pending("q", 2);
    let new = vec![message("q").check(100).unwrap()];
    let calls = async {
        let renewals = [renewal];
        let (renewed, claimed, written) = tokio::join!(
            storage.renew(&renewals),
            storage.claim(&to_claim),
            storage.enqueue(new)
        );
        assert_eq!(renewed.unwrap().renewed.len(), 1);
        assert_eq!(claimed.unwrap().messages.len(), 2);
        assert!(written.unwrap()[0].is_some());
        assert_eq!(storage.settle(&done).await.unwrap().written.len(), 2);
    };
    let mut calls = pin!(calls);
    assert!(spin(20_000, calls.as_mut()).await.is_none());
    tx.commit().await.unwrap();
    calls.await;
}

#[tokio::test]
async fn what_only_reads_waits_for_nobody() {
    let (file, storage) = migrated().await;
    let mut caller = file.connect().await.unwrap();
    let mut tx = caller.begin_with("begin immediate").await.unwrap();
    tx.execute("insert into outbox_schema_version (version) values (0)")
        .await
        .unwrap();
    // Who waits for the lock is refused in the end, because it is not given back before that.
    for source in [Source::Pending, Source::Expired] {
        let nothing = claim(&storage, &request("q", 9, source)).await;
        assert_eq!(ids(&nothing), []);
    }
    storage.verify_schema().await.unwrap();
    let letters = outbox_sqlx::DeadLetterQuery::all();
    assert!(storage.dead_letters(&letters).await.unwrap().is_empty());
    assert!(storage.settle(&[]).await.unwrap().written.is_empty());
    assert!(storage.renew(&[]).await.unwrap().renewed.is_empty());
}

/// SQLite has no queue for its lock: who seldom asks does not get it while others write all the time.
#[tokio::test]
async fn a_call_that_waits_asks_for_the_lock_again_and_again() {
    let (file, storage) = migrated().await;
    let mut caller = file.connect().await.unwrap();
    fill(&mut caller, "q", 2).await;
    // As a worker does, whose storage was there before the tables were.
    storage.check().await.unwrap();
    let held = claim(&storage, &pending("q", 1)).await;
    let renewals = [Renewal::new(
        held.messages[0].held(),
        Duration::from_secs(60),
    )];
    let done = settlements(&held, &Verdict::Done);
    let tx = caller.begin_with("begin immediate").await.unwrap();
    // Each answer is a poll, and SQLite alone would give none before it gives up.
    let asked = drop_after(30, storage.renew(&renewals)).await;
    assert!(asked.is_none(), "{asked:?}");
    let asked = drop_after(30, storage.settle(&done)).await;
    assert!(asked.is_none(), "{asked:?}");
    tx.commit().await.unwrap();
    assert_eq!(storage.settle(&done).await.unwrap().written.len(), 1);
}

#[tokio::test]
async fn a_lock_held_for_too_long_is_a_transient_error_and_leaves_nothing() {
    let (file, storage) = migrated().await;
    let mut caller = file.connect().await.unwrap();
    fill(&mut caller, "q", 2).await;
    let held = claim(&storage, &pending("q", 1)).await;
    let mut tx = caller.begin_with("begin immediate").await.unwrap();
    let done = settlements(&held, &Verdict::Done);
    let renewals = [Renewal::new(
        held.messages[0].held(),
        Duration::from_secs(60),
    )];
    let to_claim = pending("q", 1);
    let new = vec![message("q").check(100).unwrap()];
    let (settled, renewed, written) = tokio::join!(
        storage.settle(&done),
        storage.renew(&renewals),
        storage.enqueue(new)
    );
    let other = storage_of(&file).await;
    let claimed = other.claim(&to_claim).await;
    for error in [
        settled.unwrap_err(),
        renewed.unwrap_err(),
        written.unwrap_err(),
        claimed.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(
            error.advice().contains("transactions that write short"),
            "{error}"
        );
    }
    assert_eq!(number(&mut tx, MESSAGES).await, 2);
    assert_eq!(number(&mut tx, LEASED).await, 1);
    tx.commit().await.unwrap();
    assert_eq!(storage.settle(&done).await.unwrap().written.len(), 1);
    assert_eq!(claim(&other, &to_claim).await.messages.len(), 1);
}

#[tokio::test]
async fn a_caller_that_read_before_it_wrote_is_told_how_to_begin() {
    let (file, storage) = migrated().await;
    let mut caller = file.connect().await.unwrap();
    let outbox = SqliteOutbox::new();
    let mut tx = caller.begin().await.unwrap();
    number(&mut tx, MESSAGES).await;
    let new = vec![message("q").check(100).unwrap()];
    storage.enqueue(new).await.unwrap();
    let error = outbox.enqueue(&mut tx, message("q")).await.unwrap_err();
    assert!(error.is_transient());
    assert!(error.advice().contains("begin immediate"), "{error}");
    tx.rollback().await.unwrap();

    // A cancel writes before it reads, so that it can be the first statement of a transaction.
    let mut tx = caller.begin().await.unwrap();
    outbox.cancel_key(&mut tx, "q", "none").await.unwrap();
    let mut other = file.connect().await.unwrap();
    execute(&mut other, "pragma busy_timeout = 0").await;
    let refused = other.execute("begin immediate").await;
    assert!(refused.is_err(), "the cancel has the write lock");
    outbox.enqueue(&mut tx, message("q")).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn many_writers_at_once_are_never_told_that_the_database_is_locked() {
    let (file, storage) = migrated().await;
    let pool = file.pool(3).await.unwrap();
    let mut workers = Vec::new();
    for _ in 0..3 {
        let storage = storage_of(&file).await;
        workers.push(tokio::spawn(async move {
            let mut done = 0;
            while done < 60 {
                let claimed = claim(&storage, &pending("q", 7)).await;
                let held = claimed.messages.iter().map(|message| message.held());
                let renewals: Vec<_> = held
                    .map(|held| Renewal::new(held, Duration::from_secs(60)))
                    .collect();
                let renewed = storage.renew(&renewals).await.unwrap();
                assert_eq!(renewed.lost, []);
                let done_now = settlements(&claimed, &Verdict::Done);
                done += storage.settle(&done_now).await.unwrap().written.len();
            }
            done
        }));
    }
    let outbox = SqliteOutbox::new();
    let producers: Vec<_> = (0..3)
        .map(|_| {
            let (pool, outbox) = (pool.clone(), outbox.clone());
            tokio::spawn(async move {
                for _ in 0..100 {
                    let mut tx = pool.begin_with("begin immediate").await.unwrap();
                    number(&mut tx, MESSAGES).await;
                    outbox.enqueue(&mut tx, message("q")).await.unwrap();
                    tx.commit().await.unwrap();
                }
            })
        })
        .collect();
    for producer in producers {
        producer.await.unwrap();
    }
    let mut done = 0;
    for worker in workers {
        done += worker.await.unwrap();
    }
    loop {
        let rest = claim(&storage, &pending("q", 100)).await;
        if rest.messages.is_empty() {
            break;
        }
        done += rest.messages.len();
        let rest = settlements(&rest, &Verdict::Done);
        assert_eq!(
            storage.settle(&rest).await.unwrap().written.len(),
            rest.len()
        );
    }
    assert_eq!(done, 300);
}

/// A runtime may stop polling for as long as its threads are blocked. Everybody else's writes must
/// go on meanwhile, the heartbeat's first of all.
#[tokio::test]
async fn a_call_that_nobody_polls_keeps_no_lock() {
    let (file, storage) = migrated().await;
    let mut other = file.connect().await.unwrap();
    for polls in SPINS {
        fill(&mut other, "q", 400).await;
        let held = claim(&storage, &pending("q", 200)).await;
        let mut settlements = settlements(&held, &Verdict::Done);
        settlements[0].verdict = Verdict::Release;
        let to_claim = pending("q", 200);
        {
            // Not dropped before the end of the block.
            let mut stopped = pin!(storage.exchange(&settlements, &to_claim));
            let _ = spin(polls, stopped.as_mut()).await;
            assert_unlocked(&mut other).await;
        }
        expire(&mut other).await;
        let to_take = expired("q", 200);
        {
            let mut stopped = pin!(storage.claim(&to_take));
            let _ = spin(polls, stopped.as_mut()).await;
            assert_unlocked(&mut other).await;
        }
        execute(&mut other, "delete from outbox_message").await;
    }
}

/// The heartbeat has a connection to itself: the agent's may be in the middle of a call that goes on
/// when its thread is free again.
#[tokio::test]
async fn a_renewal_does_not_wait_for_a_claim_that_nobody_polls() {
    let (file, storage) = migrated().await;
    let mut caller = file.connect().await.unwrap();
    fill(&mut caller, "q", 2).await;
    let held = claim(&storage, &pending("q", 1)).await;
    let renewals = [Renewal::new(
        held.messages[0].held(),
        Duration::from_secs(60),
    )];
    let to_claim = pending("q", 1);
    let tx = caller.begin_with("begin immediate").await.unwrap();
    let mut stopped = pin!(storage.claim(&to_claim));
    assert!(spin(100, stopped.as_mut()).await.is_none());
    tx.commit().await.unwrap();
    let renewing = tokio::time::timeout(Duration::from_secs(60), storage.renew(&renewals));
    let renewed = renewing.await.expect("it waits for nobody").unwrap();
    assert_eq!(renewed.renewed, ids(&held));
    assert_eq!(stopped.await.unwrap().messages.len(), 1);
}

/// Its transaction ends where it is refused, and not when somebody reads the error.
#[tokio::test]
async fn a_refused_call_that_nobody_polls_keeps_no_lock() {
    let (file, storage) = migrated().await;
    let mut other = file.connect().await.unwrap();
    let letter = |tag: &str| {
        format!(
            "insert into outbox_dead_letter (queue, kind, payload, content_type, priority, key, tag,
                 attempts, max_attempts, deliveries, lease_losses, created_at, reason)
             values ('q', 'k', x'', 't', 0, 'taken', '{tag}', 0, 1, 1, 0, 0, 'rejected')"
        )
    };
    execute(&mut other, &letter("only once")).await;
    let unique = "create unique index once on outbox_dead_letter (tag)";
    execute(&mut other, unique).await;
    let outbox = SqliteOutbox::new();
    let drafts = [message("q").key("taken"), message("dying").tag("only once")];
    outbox.enqueue_many(&mut other, drafts).await.unwrap();
    let held = claim(&storage, &pending("dying", 1)).await;
    let dead = Verdict::Dead {
        reason: DeadReason::Rejected,
        error: String::new(),
    };
    let dead = settlements(&held, &dead);
    for polls in SPINS {
        // Opens the connections, for which the polls are not meant.
        claim(&storage, &pending("none", 1)).await;
        let new = vec![message("other").check(100).unwrap()];
        storage.enqueue(new).await.unwrap();
        let mut reviving = pin!(storage.revive(MessageId(1)));
        let mut settling = pin!(storage.settle(&dead));
        let _ = spin(polls, reviving.as_mut()).await;
        assert_unlocked(&mut other).await;
        let _ = spin(polls, settling.as_mut()).await;
        assert_unlocked(&mut other).await;
    }
    assert_eq!(number(&mut other, DEAD).await, 1);
    assert_eq!(number(&mut other, LEASED).await, 1);
}
