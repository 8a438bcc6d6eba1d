//! Claims from queues in which nothing was pending a moment ago: a statement of their own, with the
//! same answers.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use outbox_core::{ClaimRequest, Source, Storage};
use outbox_sqlx::PgOutbox;
use sqlx::PgConnection;
use support::{
    Database, claim, database, execute, fill, hold_writes, ids, lease, let_go, message, number,
    pending, texts, until_running,
};

/// Which of the two statements the last claim that found something was.
async fn last_claim(connection: &mut PgConnection) -> &'static str {
    let last = "select query from pg_stat_activity
        where datname = current_database() and application_name = 'outbox'
        order by state_change desc limit 1";
    let last = texts(connection, last).await.remove(0);
    match &last {
        last if last.starts_with("-- Leases due messages that have no lease") => "by priority",
        last if last.starts_with("-- Leases due messages of a queue in which") => "all at once",
        other => panic!("not a claim of pending messages: {other}"),
    }
}

/// A storage that knows that nothing is pending in the queue `q`.
async fn storage_of_clear(database: &Database) -> outbox_sqlx::PgStorage {
    let storage = database.storage().await;
    assert!(claim(&storage, &pending("q", 1)).await.messages.is_empty());
    storage
}

#[tokio::test]
async fn a_clear_queue_is_read_at_once_and_one_that_holds_something_by_priority() {
    let database = database().await;
    let storage = storage_of_clear(&database).await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 3).await;
    assert_eq!(claim(&storage, &pending("q", 9)).await.messages.len(), 3);
    assert_eq!(last_claim(&mut ours).await, "all at once");
    fill(&mut ours, "q", 2).await;
    assert_eq!(claim(&storage, &pending("q", 9)).await.messages.len(), 2);
    assert_eq!(last_claim(&mut ours).await, "by priority");

    // One that is due tomorrow would be read by every claim.
    let tomorrow = message("q").after(Duration::from_secs(86_400));
    let outbox = PgOutbox::new();
    outbox.enqueue(&mut ours, tomorrow).await.unwrap();
    assert!(claim(&storage, &pending("q", 9)).await.messages.is_empty());
    fill(&mut ours, "q", 1).await;
    assert_eq!(claim(&storage, &pending("q", 9)).await.messages.len(), 1);
    assert_eq!(last_claim(&mut ours).await, "by priority");
}

#[tokio::test]
async fn of_several_queues_each_is_read_by_priority() {
    let database = database().await;
    let storage = storage_of_clear(&database).await;
    let mut ours = database.connect().await;
    let request = || ClaimRequest::new(vec![lease("q"), lease("other")], 9, Source::Pending);
    assert!(claim(&storage, &request()).await.messages.is_empty());
    fill(&mut ours, "q", 1).await;
    assert_eq!(claim(&storage, &request()).await.messages.len(), 1);
    assert_eq!(last_claim(&mut ours).await, "by priority");
}

#[tokio::test]
async fn what_comes_into_a_clear_queue_starts_by_priority_due_time_and_id() {
    let database = database().await;
    let storage = storage_of_clear(&database).await;
    let mut ours = database.connect().await;
    let drafts = [
        message("q"),
        message("q").priority(3),
        message("q").priority(-3),
        message("q"),
        message("q").after(Duration::from_secs(60)),
        message("other").priority(-3),
    ];
    let written = PgOutbox::new()
        .enqueue_many(&mut ours, drafts)
        .await
        .unwrap();
    let id = |place: usize| written[place].id().unwrap();
    let earlier =
        "update outbox.message set next_attempt_at = now() - interval '1 hour' where id = ";
    execute(&mut ours, &format!("{earlier}{}", id(3))).await;
    let mut request = pending("q", 5);
    request.queues[0].lease_ttl = Duration::from_secs(600);
    let claimed = claim(&storage, &request).await;
    assert_eq!(last_claim(&mut ours).await, "all at once");
    assert_eq!(ids(&claimed), [id(2), id(3), id(0), id(1)]);
    let of_ten_minutes = "select count(*) from outbox.message
        where extract(epoch from lease_expires_at - acquired_at)::bigint = 600
          and attempts = 1 and deliveries = 1";
    assert_eq!(number(&mut ours, of_ten_minutes).await, 4);
}

#[tokio::test]
async fn a_claim_of_a_clear_queue_takes_no_more_than_its_limit() {
    let database = database().await;
    let storage = storage_of_clear(&database).await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 5).await;
    let first = "insert into outbox.message (queue, kind, payload, content_type, priority)
        values ('q', 'k', 'x', 't', -1)";
    execute(&mut ours, first).await;
    let best = ids(&claim(&storage, &pending("q", 2)).await);
    assert_eq!(best.len(), 2);
    assert_eq!(best[0].0, 6);
    let leased = "select count(*) from outbox.message where acquired_token is not null";
    assert_eq!(number(&mut ours, leased).await, 2);
    assert_eq!(claim(&storage, &pending("q", 9)).await.messages.len(), 4);
}

#[tokio::test]
async fn a_claim_of_a_clear_queue_skips_what_others_have_locked() {
    let database = database().await;
    let storage = storage_of_clear(&database).await;
    let (mut ours, mut other) = (database.connect().await, database.connect().await);
    fill(&mut ours, "q", 30).await;
    let lock = "begin; select from outbox.message order by id limit 20 for update";
    execute(&mut other, lock).await;
    let claimed = claim(&storage, &pending("q", 30)).await;
    assert_eq!(last_claim(&mut ours).await, "all at once");
    assert_eq!(claimed.messages.len(), 10);
    execute(&mut other, "rollback").await;
    assert_eq!(claim(&storage, &pending("q", 30)).await.messages.len(), 20);
}

#[tokio::test]
async fn claims_of_a_clear_queue_side_by_side_share_no_message() {
    let database = database().await;
    let mut ours = database.connect().await;
    let (a, b) = (
        storage_of_clear(&database).await,
        database.unmigrated().await,
    );
    for _ in 0..20 {
        for storage in [&a, &b] {
            assert!(claim(storage, &pending("q", 1)).await.messages.is_empty());
        }
        fill(&mut ours, "q", 20).await;
        let mut seen = BTreeSet::new();
        while seen.len() < 20 {
            let (left, right) = (pending("q", 15), pending("q", 15));
            let (left, right) = tokio::join!(a.claim(&left), b.claim(&right));
            for message in [left.unwrap(), right.unwrap()]
                .iter()
                .flat_map(|claim| &claim.messages)
            {
                assert!(seen.insert(message.id), "{} was claimed twice", message.id);
            }
        }
    }
}

#[tokio::test]
async fn a_claim_of_a_clear_queue_whose_connection_dies_is_asked_for() {
    let database = database().await;
    let storage = storage_of_clear(&database).await;
    let (mut ours, mut other) = (database.connect().await, database.connect().await);
    fill(&mut ours, "q", 2).await;
    hold_writes(&mut ours).await;
    let request = pending("q", 2);
    let (claimed, ()) = tokio::join!(storage.claim(&request), async {
        until_running(&mut other).await;
        assert_eq!(last_claim(&mut other).await, "all at once");
        let running = "select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and application_name = 'outbox' and state = 'active'";
        execute(&mut other, running).await;
        let_go(&mut ours).await;
    });
    assert_eq!(claimed.unwrap().messages.len(), 2);
    let deliveries = "select sum(deliveries)::bigint from outbox.message";
    assert_eq!(number(&mut ours, deliveries).await, 2);
}
