//! Expired leases: who may still write, who takes over, and what ends as a dead letter.
#![allow(clippy::unwrap_used)]

mod support;

use outbox_core::{DeadReason, Storage, Verdict};
use outbox_sqlx::PgOutbox;
use support::{
    claim, database, execute, expire, expired, fill, ids, message, number, pending, settle_all,
};

#[tokio::test]
async fn after_its_end_a_lease_holds_until_it_is_taken() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 1).await;
    let claimed = claim(&storage, &pending("q", 1)).await;
    expire(&mut ours).await;
    let settlements = settle_all(&claimed, &Verdict::Done);
    assert_eq!(
        storage.settle(&settlements).await.unwrap().written,
        ids(&claimed)
    );
}

#[tokio::test]
async fn a_reclaim_counts_a_loss_and_not_an_attempt() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 3).await;
    let first = claim(&storage, &pending("q", 3)).await;
    expire(&mut ours).await;
    let again = claim(&storage, &expired("q", 3)).await;
    assert_eq!(ids(&again), ids(&first));
    for message in &again.messages {
        assert_eq!(
            (message.attempt, message.lease_losses, message.deliveries),
            (1, 1, 2)
        );
        assert_ne!(message.token, first.messages[0].token);
    }
    let stale = settle_all(&first, &Verdict::Done);
    assert_eq!(storage.settle(&stale).await.unwrap().written, []);
}

#[tokio::test]
async fn a_message_that_was_lost_before_is_claimed_alone() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 4).await;
    let claimed = claim(&storage, &pending("q", 4)).await;
    expire(&mut ours).await;
    let lost = |place: usize| {
        format!(
            "update outbox.message set lease_losses = 1 where id = {}",
            claimed.messages[place].id
        )
    };
    execute(&mut ours, &lost(1)).await;
    execute(&mut ours, &lost(2)).await;
    let id = |place: usize| claimed.messages[place].id;
    assert_eq!(
        ids(&claim(&storage, &expired("q", 9)).await),
        [id(0), id(3)]
    );
    assert_eq!(ids(&claim(&storage, &expired("q", 9)).await), [id(1)]);
    assert_eq!(ids(&claim(&storage, &expired("q", 9)).await), [id(2)]);
    assert_eq!(ids(&claim(&storage, &expired("q", 9)).await), []);
}

#[tokio::test]
async fn a_third_loss_is_a_dead_letter_and_so_is_a_lost_last_attempt() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    let drafts = [
        message("q").max_attempts(1),
        message("q"),
        message("q").tag("kept"),
    ];
    let outbox = PgOutbox::new();
    outbox.enqueue_many(&mut ours, drafts).await.unwrap();
    let claimed = claim(&storage, &pending("q", 3)).await;
    expire(&mut ours).await;
    execute(
        &mut ours,
        "update outbox.message set lease_losses = 2, last_error = 'before' where tag = 'kept'",
    )
    .await;
    let taken = claim(&storage, &expired("q", 9)).await;
    assert_eq!(ids(&taken), [claimed.messages[1].id]);
    assert_eq!(taken.dead.len(), 1);
    assert_eq!(taken.dead[0].id, claimed.messages[0].id);
    assert_eq!(taken.dead[0].reason, DeadReason::LeaseExpired);
    assert_eq!(taken.dead[0].queue.as_ref(), "q");
    assert_eq!(taken.dead[0].kind.as_ref(), "test");
    let taken = claim(&storage, &expired("q", 9)).await;
    assert_eq!(ids(&taken), []);
    assert_eq!(taken.dead[0].id, claimed.messages[2].id);
    assert_eq!(taken.dead[0].reason, DeadReason::Crashed);
    let kept = "select count(*) from outbox.dead_letter
        where tag = 'kept' and reason = 'crashed' and last_error = 'before' and lease_losses = 3";
    assert_eq!(number(&mut ours, kept).await, 1);
}
