//! What an operator does with dead letters.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use outbox_core::{DeadReason, MessageId, Storage, Verdict};
use outbox_sqlx::{DeadLetterQuery, Enqueued, PgOutbox, PgStorage, Revived};
use sqlx::PgConnection;
use support::{claim, database, execute, ids, message, number, pending, settle_all};

/// Enqueues and gives up `drafts`, and returns their ids.
async fn dead(
    storage: &PgStorage,
    connection: &mut PgConnection,
    queue: &'static str,
    key: Option<&str>,
) -> MessageId {
    let mut draft = message(queue).header("h", "v").tag("t");
    if let Some(key) = key {
        draft = draft.key(key);
    }
    let enqueued = PgOutbox::new().enqueue(connection, draft).await.unwrap();
    let claimed = claim(storage, &pending(queue, 1)).await;
    let verdict = Verdict::Dead {
        reason: DeadReason::Exhausted,
        error: "broke".to_owned(),
    };
    storage
        .settle(&settle_all(&claimed, &verdict))
        .await
        .unwrap();
    assert_eq!(enqueued, Enqueued::New(ids(&claimed)[0]));
    ids(&claimed)[0]
}

#[tokio::test]
async fn they_are_listed_whole_and_in_pages() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    let a = dead(&storage, &mut ours, "a", Some("k")).await;
    let b = dead(&storage, &mut ours, "b", None).await;
    let c = dead(&storage, &mut ours, "a", None).await;
    let list = async |query: DeadLetterQuery| -> Vec<MessageId> {
        let letters = storage.dead_letters(&query).await.unwrap();
        letters.iter().map(|letter| letter.id).collect()
    };
    assert_eq!(list(DeadLetterQuery::all()).await, [a, b, c]);
    assert_eq!(list(DeadLetterQuery::all().queue("a")).await, [a, c]);
    assert_eq!(list(DeadLetterQuery::all().limit(2)).await, [a, b]);
    assert_eq!(list(DeadLetterQuery::all().after(b)).await, [c]);
    let all = storage.dead_letters(&DeadLetterQuery::all()).await.unwrap();
    let first = &all[0];
    assert_eq!((first.queue.as_str(), first.kind.as_str()), ("a", "test"));
    assert_eq!(first.payload, b"1");
    assert_eq!(first.headers.get("h"), Some("v"));
    assert_eq!(first.key.as_deref(), Some("k"));
    assert_eq!(first.tag.as_deref(), Some("t"));
    assert_eq!((first.attempts, first.max_attempts), (1, 10));
    assert_eq!(first.dead_reason(), Some(DeadReason::Exhausted));
    assert_eq!(first.last_error.as_deref(), Some("broke"));
    assert!(first.died_at >= first.created_at);
    assert!(!format!("{first:?}").contains("[49]"));
}

#[tokio::test]
async fn a_revived_one_is_the_same_message_with_new_attempts() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    let id = dead(&storage, &mut ours, "q", Some("k")).await;
    assert_eq!(storage.revive(id).await.unwrap(), Revived::Revived);
    assert_eq!(storage.revive(id).await.unwrap(), Revived::NotFound);
    let claimed = claim(&storage, &pending("q", 1)).await;
    let message = &claimed.messages[0];
    assert_eq!(message.id, id);
    assert_eq!((message.attempt, message.lease_losses), (1, 0));
    assert_eq!(message.deliveries, 2);
    assert_eq!(message.key.as_deref(), Some("k"));
    let verdict = Verdict::Dead {
        reason: DeadReason::Rejected,
        error: "again".to_owned(),
    };
    let settlements = settle_all(&claimed, &verdict);
    assert_eq!(storage.settle(&settlements).await.unwrap().written, [id]);
}

#[tokio::test]
async fn a_key_that_is_live_again_keeps_the_dead_letter() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    let id = dead(&storage, &mut ours, "q", Some("k")).await;
    let outbox = PgOutbox::new();
    outbox
        .enqueue(&mut ours, message("q").key("k"))
        .await
        .unwrap();
    assert_eq!(storage.revive(id).await.unwrap(), Revived::KeyTaken);
    let kept = "select count(*) from outbox.dead_letter";
    assert_eq!(number(&mut ours, kept).await, 1);
}

#[tokio::test]
async fn only_old_ones_of_the_queue_are_purged() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    dead(&storage, &mut ours, "a", None).await;
    dead(&storage, &mut ours, "b", None).await;
    execute(
        &mut ours,
        "update outbox.dead_letter set died_at = now() - interval '2 hours'",
    )
    .await;
    dead(&storage, &mut ours, "a", None).await;
    let hour = Duration::from_secs(3600);
    assert_eq!(
        storage.purge_dead_letters(Some("a"), hour).await.unwrap(),
        1
    );
    assert_eq!(storage.purge_dead_letters(None, hour).await.unwrap(), 1);
    assert_eq!(
        storage
            .purge_dead_letters(None, Duration::MAX)
            .await
            .unwrap(),
        0
    );
    assert_eq!(
        storage
            .purge_dead_letters(None, Duration::ZERO)
            .await
            .unwrap(),
        1
    );
}

/// Writes dead letters without making them.
async fn bury(connection: &mut PgConnection, queue: &str, ids: std::ops::RangeInclusive<i64>) {
    let sql = format!(
        "insert into outbox.dead_letter (message_id, queue, kind, payload, content_type, priority,
             attempts, max_attempts, deliveries, lease_losses, created_at, died_at, reason)
         select id, '{queue}', 'k', '', 't', 0, 1, 1, 1, 0, now(), now() - interval '1 hour', 'r'
         from generate_series({}, {}) as id",
        ids.start(),
        ids.end()
    );
    execute(connection, &sql).await;
}

#[tokio::test]
async fn a_purge_deletes_in_lots_so_that_claims_get_between_them() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    bury(&mut ours, "a", 1..=1_500).await;
    bury(&mut ours, "b", 1_501..=2_500).await;
    bury(&mut ours, "a", 2_501..=3_000).await;
    execute(
        &mut ours,
        "create table public.lot (size bigint);
         create function public.record_lot() returns trigger language plpgsql as $$
         begin
             insert into public.lot select count(*) from gone;
             return null;
         end $$;
         create trigger record_lot after delete on outbox.dead_letter
             referencing old table as gone
             for each statement execute function public.record_lot()",
    )
    .await;
    let minute = Duration::from_secs(60);
    let purged = storage.purge_dead_letters(Some("a"), minute).await;
    assert_eq!(purged.unwrap(), 2_000);
    let purged = storage.purge_dead_letters(None, minute).await;
    assert_eq!(purged.unwrap(), 1_000);
    let lots = "select count(*) from public.lot where size > 0";
    assert_eq!(number(&mut ours, lots).await, 3);
    let largest = "select max(size) from public.lot";
    assert_eq!(number(&mut ours, largest).await, 1_000);
}

#[tokio::test]
async fn a_locked_dead_letter_does_not_stop_a_purge() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    bury(&mut ours, "a", 1..=1_100).await;
    let lock = "select from outbox.dead_letter where message_id in (1, 7) for update";
    let lock = database.lock(lock).await;
    let purge = || storage.purge_dead_letters(None, Duration::ZERO);
    assert_eq!(purge().await.unwrap(), 1_098);
    lock.release().await.unwrap();
    assert_eq!(purge().await.unwrap(), 2);
}
