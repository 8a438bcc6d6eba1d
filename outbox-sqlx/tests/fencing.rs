//! Races between holders, forced with locks the test holds.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use outbox_core::{Claim, DeadReason, Renewal, Settlement, Storage, Verdict};
use outbox_sqlx::PgOutbox;
use sqlx::PgConnection;
use support::{
    claim, database, execute, expire, expired, fill, ids, number, pending, settle_all,
    settle_to_the_end, until_waiting,
};

/// Opens a transaction that holds the lock of a message.
async fn lock(connection: &mut PgConnection, id: impl std::fmt::Display) {
    execute(
        connection,
        &format!("begin; select from outbox.message where id = {id} for update"),
    )
    .await;
}

/// What another worker's reclaim writes, so that the test can hold it uncommitted.
async fn reclaim(connection: &mut PgConnection, id: impl std::fmt::Display) {
    execute(
        connection,
        &format!(
            "begin; update outbox.message set acquired_token = gen_random_uuid(),
             lease_losses = lease_losses + 1 where id = {id}"
        ),
    )
    .await;
}

fn renewals(claim: &Claim) -> Vec<Renewal> {
    claim
        .messages
        .iter()
        .map(|message| Renewal::new(message.held(), Duration::from_secs(60)))
        .collect()
}

#[tokio::test]
async fn a_claim_skips_what_others_have_locked() {
    let database = database().await;
    let storage = database.storage().await;
    let (mut ours, mut other) = (database.connect().await, database.connect().await);
    fill(&mut ours, "q", 30).await;
    execute(
        &mut other,
        "begin; select from outbox.message order by id limit 20 for update",
    )
    .await;
    let claimed = claim(&storage, &pending("q", 30)).await;
    assert_eq!(claimed.messages.len(), 10);
    execute(&mut other, "rollback").await;
    assert_eq!(claim(&storage, &pending("q", 30)).await.messages.len(), 20);
}

#[tokio::test]
async fn a_reclaim_skips_what_others_have_locked() {
    let database = database().await;
    let storage = database.storage().await;
    let (mut ours, mut other) = (database.connect().await, database.connect().await);
    fill(&mut ours, "q", 2).await;
    let claimed = claim(&storage, &pending("q", 2)).await;
    expire(&mut ours).await;
    lock(&mut other, claimed.messages[0].id).await;
    let taken = claim(&storage, &expired("q", 2)).await;
    assert_eq!(ids(&taken), [claimed.messages[1].id]);
}

#[tokio::test]
async fn concurrent_claims_never_share_a_message() {
    let database = database().await;
    let (a, b) = (database.storage().await, database.unmigrated().await);
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 400).await;
    let mut seen = BTreeSet::new();
    let mut total = 0;
    while total < 400 {
        let (left, right) = (pending("q", 10), pending("q", 10));
        let (left, right) = tokio::join!(a.claim(&left), b.claim(&right));
        for message in left
            .unwrap()
            .messages
            .iter()
            .chain(&right.unwrap().messages)
        {
            assert!(seen.insert(message.id), "{} was claimed twice", message.id);
            total += 1;
        }
    }
}

#[tokio::test]
async fn a_settle_that_waits_for_a_reclaim_finds_its_lease_lost() {
    for verdict in [
        Verdict::Done,
        Verdict::Release,
        Verdict::Dead {
            reason: DeadReason::Exhausted,
            error: String::new(),
        },
    ] {
        let database = database().await;
        let storage = database.storage().await;
        let (mut other, mut observer) = (database.connect().await, database.connect().await);
        fill(&mut observer, "q", 2).await;
        let claimed = claim(&storage, &pending("q", 2)).await;
        reclaim(&mut other, claimed.messages[0].id).await;
        let settlements = settle_all(&claimed, &verdict);
        let settling = storage.clone();
        let settling = tokio::spawn(async move { settle_to_the_end(&settling, settlements).await });
        until_waiting(&mut observer, 1).await;
        execute(&mut other, "commit").await;
        let written = settling.await.unwrap();
        assert_eq!(written, [claimed.messages[1].id], "{verdict:?}");
        let stolen = "select count(*) from outbox.message where lease_losses = 1
            and acquired_token is not null";
        assert_eq!(number(&mut observer, stolen).await, 1, "{verdict:?}");
        let dead = "select count(*) from outbox.dead_letter where lease_losses = 1";
        assert_eq!(number(&mut observer, dead).await, 0);
    }
}

#[tokio::test]
async fn a_settle_that_waits_for_a_renewal_still_holds() {
    let database = database().await;
    let storage = database.storage().await;
    let (mut other, mut observer) = (database.connect().await, database.connect().await);
    fill(&mut observer, "q", 1).await;
    let claimed = claim(&storage, &pending("q", 1)).await;
    execute(
        &mut other,
        "begin; update outbox.message set lease_expires_at = lease_expires_at + interval '1 min'",
    )
    .await;
    let settlements = settle_all(&claimed, &Verdict::Done);
    let settling = storage.clone();
    let settling = tokio::spawn(async move { settle_to_the_end(&settling, settlements).await });
    until_waiting(&mut observer, 1).await;
    execute(&mut other, "commit").await;
    assert_eq!(settling.await.unwrap(), ids(&claimed));
}

/// Verdicts of every statement that a settle consists of, one for each message of the claim.
fn settle_in_turn(claim: &Claim) -> Vec<Settlement> {
    let dead = Verdict::Dead {
        reason: DeadReason::Rejected,
        error: String::new(),
    };
    let verdicts = [Verdict::Done, Verdict::Release, dead].into_iter().cycle();
    let messages = claim.messages.iter().zip(verdicts);
    messages
        .map(|(message, verdict)| Settlement::new(message.held(), verdict))
        .collect()
}

#[tokio::test]
async fn a_locked_message_does_not_stop_the_others_of_its_settle() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 6).await;
    let claimed = claim(&storage, &pending("q", 6)).await;
    let id = |place: usize| claimed.messages[place].id;
    let settlements = settle_in_turn(&claimed);
    for place in [3, 4, 5] {
        let lock = database.lock_message(id(place)).await;
        let mut settled = storage.settle(&settlements[..=place]).await.unwrap();
        settled.written.sort();
        let others = if place == 3 {
            vec![id(0), id(1), id(2)]
        } else {
            vec![]
        };
        assert_eq!((settled.written, settled.busy), (others, vec![id(place)]));
        lock.release().await.unwrap();
        let settled = storage.settle(&settlements[place..=place]).await.unwrap();
        assert_eq!((settled.written, settled.busy), (vec![id(place)], vec![]));
    }
    let left = "select count(*) from outbox.message where acquired_token is null";
    assert_eq!(number(&mut ours, left).await, 2);
    let dead = "select count(*) from outbox.dead_letter";
    assert_eq!(number(&mut ours, dead).await, 2);
}

#[tokio::test]
async fn beside_a_busy_message_a_lost_one_is_lost() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 4).await;
    let claimed = claim(&storage, &pending("q", 4)).await;
    let id = |place: usize| claimed.messages[place].id;
    reclaim(&mut ours, id(0)).await;
    execute(&mut ours, "commit").await;
    execute(
        &mut ours,
        &format!("delete from outbox.message where id = {}", id(1)),
    )
    .await;
    // What the lost lease's new holder does is not ours to wait for.
    let _stolen = database.lock_message(id(0)).await;
    let _busy = database.lock_message(id(2)).await;
    let settlements = settle_all(&claimed, &Verdict::Done);
    let settled = storage.settle(&settlements).await.unwrap();
    assert_eq!((settled.written, settled.busy), (vec![id(3)], vec![id(2)]));
}

#[tokio::test]
async fn a_locked_table_is_a_transient_error_and_no_busy_message() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 1).await;
    let claimed = claim(&storage, &pending("q", 1)).await;
    let settlements = settle_all(&claimed, &Verdict::Done);
    for mode in ["share", "access exclusive"] {
        let lock = format!("lock table outbox.message in {mode} mode");
        let lock = database.lock(&lock).await;
        let error = storage.settle(&settlements).await.unwrap_err();
        assert!(error.is_transient(), "{mode}: {error:?}");
        lock.release().await.unwrap();
    }
    assert_eq!(
        storage.settle(&settlements).await.unwrap().written,
        ids(&claimed)
    );
}

#[tokio::test]
async fn a_renewal_waits_for_nobody() {
    let database = database().await;
    let storage = database.storage().await;
    let (mut ours, mut other) = (database.connect().await, database.connect().await);
    fill(&mut ours, "q", 3).await;
    let claimed = claim(&storage, &pending("q", 3)).await;
    lock(&mut other, claimed.messages[1].id).await;
    let answer = storage.renew(&renewals(&claimed)).await.unwrap();
    let free = [claimed.messages[0].id, claimed.messages[2].id];
    assert_eq!(
        (answer.renewed.as_slice(), answer.lost),
        (&free[..], vec![])
    );
    execute(&mut other, "rollback").await;
    let answer = storage.renew(&renewals(&claimed)).await.unwrap();
    assert_eq!(answer.renewed.len(), 3);
}

#[tokio::test]
async fn a_renewal_during_a_reclaim_is_lost_once_that_commits() {
    let database = database().await;
    let storage = database.storage().await;
    let (mut ours, mut other) = (database.connect().await, database.connect().await);
    fill(&mut ours, "q", 1).await;
    let claimed = claim(&storage, &pending("q", 1)).await;
    reclaim(&mut other, claimed.messages[0].id).await;
    let busy = storage.renew(&renewals(&claimed)).await.unwrap();
    assert_eq!((busy.renewed, busy.lost), (vec![], vec![]));
    execute(&mut other, "commit").await;
    let after = storage.renew(&renewals(&claimed)).await.unwrap();
    assert_eq!((after.renewed, after.lost), (vec![], ids(&claimed)));
}

#[tokio::test]
async fn a_renewal_does_not_wait_for_a_settle_on_the_control_connection() {
    let database = database().await;
    let storage = database.storage().await;
    let (mut other, mut observer) = (database.connect().await, database.connect().await);
    fill(&mut observer, "q", 2).await;
    let claimed = claim(&storage, &pending("q", 2)).await;
    lock(&mut other, claimed.messages[0].id).await;
    let settlements = settle_all(&claimed, &Verdict::Done);
    let settling = storage.clone();
    let settling = tokio::spawn(async move { settle_to_the_end(&settling, settlements).await });
    until_waiting(&mut observer, 1).await;
    storage.renew(&renewals(&claimed)).await.unwrap();
    assert!(!settling.is_finished());
    execute(&mut other, "rollback").await;
    assert_eq!(settling.await.unwrap(), ids(&claimed));
}

#[tokio::test]
async fn an_enqueue_of_a_key_waits_for_the_one_that_is_writing_it() {
    let database = database().await;
    database.storage().await;
    let (mut first, mut second) = (database.connect().await, database.connect().await);
    let mut observer = database.connect().await;
    let keyed = || support::message("q").key("k");
    execute(&mut first, "begin").await;
    let outbox = PgOutbox::new();
    outbox.enqueue(&mut first, keyed()).await.unwrap();
    let late = outbox.clone();
    let late = tokio::spawn(async move { late.enqueue(&mut second, keyed()).await });
    until_waiting(&mut observer, 1).await;
    execute(&mut first, "rollback").await;
    assert!(late.await.unwrap().unwrap().id().is_some());
}

/// Two batches that overlap must lock in one order, or each waits for what the other has locked.
#[tokio::test]
async fn a_settle_locks_in_the_order_of_ids() {
    let dead = Verdict::Dead {
        reason: DeadReason::Rejected,
        error: String::new(),
    };
    for verdict in [Verdict::Done, Verdict::Release, dead] {
        let database = database().await;
        let storage = database.storage().await;
        let mut observer = database.connect().await;
        fill(&mut observer, "q", 3).await;
        let claimed = claim(&storage, &pending("q", 3)).await;
        let lock = database.lock_message(claimed.messages[0].id).await;
        let mut settlements = settle_all(&claimed, &verdict);
        settlements.reverse();
        let settling = tokio::spawn(async move { settle_to_the_end(&storage, settlements).await });
        until_waiting(&mut observer, 1).await;
        let free = "with free as (select from outbox.message for update skip locked)
            select count(*) from free";
        assert_eq!(number(&mut observer, free).await, 2, "{verdict:?}");
        lock.release().await.unwrap();
        assert_eq!(settling.await.unwrap(), ids(&claimed));
    }
}

#[tokio::test]
async fn overlapping_batches_in_opposite_order_do_not_deadlock() {
    let database = database().await;
    let (a, b) = (database.storage().await, database.unmigrated().await);
    let mut ours = database.connect().await;
    for _ in 0..20 {
        fill(&mut ours, "q", 50).await;
        let claimed = claim(&a, &pending("q", 50)).await;
        let forward = settle_all(&claimed, &Verdict::Done);
        let mut backward = forward.clone();
        backward.reverse();
        let (left, right) = tokio::join!(a.settle(&forward), b.settle(&backward));
        assert_eq!(
            left.unwrap().written.len() + right.unwrap().written.len(),
            50
        );
    }
}
