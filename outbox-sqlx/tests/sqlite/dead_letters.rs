//! What an operator does with dead letters.

use std::time::Duration;

use outbox_core::{DeadReason, Draft, MessageId, Storage, Verdict};
use outbox_sqlx::sqlite::SqliteStorage;
use outbox_sqlx::{DeadLetterQuery, Revived};
use sqlx::SqliteConnection;

use crate::support::{
    DEAD, NOW, claim, execute, fill, ids, message, migrated, number, pending, settlements,
};

/// Enqueues a message and gives it up.
async fn give_up(
    storage: &SqliteStorage,
    connection: &mut SqliteConnection,
    queue: &'static str,
    draft: Draft,
) -> MessageId {
    let outbox = storage.outbox();
    let enqueued = outbox.enqueue(connection, draft.queue(queue)).await;
    let claimed = claim(storage, &pending(queue, 1)).await;
    let dead = Verdict::Dead {
        reason: DeadReason::Exhausted,
        error: "broke".to_owned(),
    };
    let written = storage.settle(&settlements(&claimed, &dead)).await;
    assert_eq!(written.unwrap().written, ids(&claimed));
    assert_eq!(enqueued.unwrap().id(), Some(ids(&claimed)[0]));
    ids(&claimed)[0]
}

#[tokio::test]
async fn they_are_listed_whole_and_in_pages() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    let draft = message("a").header("h", "v").tag("t").group("g").key("k");
    let a = give_up(&storage, &mut ours, "a", draft.priority(2)).await;
    let b = give_up(&storage, &mut ours, "b", message("b")).await;
    let c = give_up(&storage, &mut ours, "a", message("a")).await;
    let all = DeadLetterQuery::all;
    for (query, expected) in [
        (all(), vec![a, b, c]),
        (all().queue("a"), vec![a, c]),
        (all().limit(2), vec![a, b]),
        (all().after(b), vec![c]),
        (all().queue("none"), vec![]),
    ] {
        let letters = storage.dead_letters(&query).await.unwrap();
        let found: Vec<_> = letters.iter().map(|letter| letter.id).collect();
        assert_eq!(found, expected, "{query:?}");
    }
    let letter = storage.dead_letters(&all()).await.unwrap().remove(0);
    assert_eq!((&*letter.queue, &*letter.kind), ("a", "test"));
    assert_eq!(
        (&*letter.payload, &*letter.content_type),
        (&b"1"[..], "application/json")
    );
    assert_eq!(letter.headers.get("h"), Some("v"));
    let texts = (
        letter.key.as_deref(),
        letter.group.as_deref(),
        letter.tag.as_deref(),
    );
    assert_eq!(texts, (Some("k"), Some("g"), Some("t")));
    assert_eq!((letter.priority, letter.lease_losses), (2, 0));
    assert_eq!(
        (letter.attempts, letter.max_attempts, letter.deliveries),
        (1, 10, 1)
    );
    assert_eq!(letter.dead_reason(), Some(DeadReason::Exhausted));
    assert_eq!(letter.last_error.as_deref(), Some("broke"));
    assert!(letter.died_at >= letter.created_at);
}

#[tokio::test]
async fn a_revived_one_is_the_same_message_with_new_attempts() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    let keyed = message("q").key("k").header("h", "v");
    let id = give_up(&storage, &mut ours, "q", keyed).await;
    assert_eq!(storage.revive(id).await.unwrap(), Revived::Revived);
    assert_eq!(storage.revive(id).await.unwrap(), Revived::NotFound);
    let again = claim(&storage, &pending("q", 1)).await;
    let message = &again.messages[0];
    assert_eq!(message.id, id);
    assert_eq!(
        (message.attempt, message.lease_losses, message.deliveries),
        (1, 0, 2)
    );
    assert_eq!(message.key.as_deref(), Some("k"));
    assert_eq!(message.headers.get("h"), Some("v"));
    assert_eq!(number(&mut ours, DEAD).await, 0);
}

#[tokio::test]
async fn a_key_that_is_live_again_keeps_the_dead_letter() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    let id = give_up(&storage, &mut ours, "q", message("q").key("k")).await;
    let live = storage
        .outbox()
        .enqueue(&mut ours, message("q").key("k"))
        .await;
    assert!(live.unwrap().id().is_some());
    for _ in 0..2 {
        assert_eq!(storage.revive(id).await.unwrap(), Revived::KeyTaken);
    }
    assert_eq!(number(&mut ours, DEAD).await, 1);
    // The refused transaction keeps no lock.
    crate::support::assert_unlocked(&mut ours).await;
}

#[tokio::test]
async fn only_old_ones_of_the_queue_are_purged_however_many() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    let buried = |queue: &str, first: u32, last: u32, died_at: &str| {
        format!(
            "with recursive id (n) as (values ({first}) union all select n + 1 from id where n < {last})
             insert into outbox_dead_letter (message_id, queue, kind, payload, content_type,
                 priority, attempts, max_attempts, deliveries, lease_losses, created_at, died_at,
                 reason)
             select n, '{queue}', 'k', x'', 't', 0, 1, 1, 1, 0, 0, {died_at}, 'rejected' from id"
        )
    };
    let old = format!("{NOW} - 7200000");
    execute(&mut ours, &buried("a", 1, 2_500, &old)).await;
    execute(&mut ours, &buried("b", 2_501, 2_503, &old)).await;
    execute(&mut ours, &buried("a", 2_504, 2_510, NOW)).await;
    let hour = Duration::from_secs(3600);
    let purge = async |queue, age| storage.purge_dead_letters(queue, age).await.unwrap();
    assert_eq!(purge(Some("a"), hour).await, 2_500);
    assert_eq!(purge(None, hour).await, 3);
    assert_eq!(purge(None, Duration::MAX).await, 0);
    assert_eq!(number(&mut ours, DEAD).await, 7);
    fill(&mut ours, "q", 1).await;
}
