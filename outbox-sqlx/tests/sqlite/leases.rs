//! Claims, settles and renewals where SQLite goes its own way: looking before writing, and lists as
//! JSON. The rules themselves are in the conformance suite.

use std::pin::pin;
use std::time::{Duration, SystemTime};

use outbox_core::{
    ClaimRequest, Claimed, DeadReason, LeaseToken, QueueLease, Renewal, Settlement, Source,
    Storage, Verdict,
};
use outbox_sqlx::sqlite::SqliteOutbox;

use crate::support::{
    DEAD, LEASED, MESSAGES, NOW, SPINS, claim, execute, expire, expired, fill, ids, message,
    migrated, number, pending, settlements, spin, storage_of,
};
use sqlx::Connection;

#[tokio::test]
async fn what_is_due_is_found_in_every_level_and_no_other_is_touched() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    let mut drafts = Vec::new();
    for queue in ["a", "b"] {
        for priority in -3..=3 {
            drafts.push(message(queue).priority(priority));
            let later = message(queue).after(Duration::from_secs(60));
            drafts.push(later.priority(priority));
        }
    }
    let outbox = SqliteOutbox::new();
    let written = outbox.enqueue_many(&mut ours, drafts).await.unwrap();
    let id = |place: usize| written[place].id().unwrap();
    let queue = |name| QueueLease::new(name, Duration::from_secs(30));
    let request = |limit| {
        let queues = vec![queue("b"), queue("none"), queue("a")];
        ClaimRequest::new(queues, limit, Source::Pending)
    };
    let first = claim(&storage, &request(9)).await;
    let places = [14, 16, 18, 20, 22, 24, 26, 0, 2];
    assert_eq!(ids(&first), places.map(id), "seven of b, then two of a");
    assert_eq!((first.next_due, first.next_expiry), (None, None));
    let rest = claim(&storage, &request(9)).await;
    assert_eq!(ids(&rest), [4, 6, 8, 10, 12].map(id));
    let none = claim(&storage, &request(9)).await;
    assert_eq!(ids(&none), []);
    let due = none.next_due.unwrap();
    assert!(
        due > Duration::from_secs(50) && due <= Duration::from_secs(60),
        "{due:?}"
    );
}

#[tokio::test]
async fn a_queue_that_is_asked_for_twice_gives_each_message_once() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    fill(&mut ours, "q", 3).await;
    let twice = |source| {
        let lease = QueueLease::new("q", Duration::from_secs(30));
        ClaimRequest::new(vec![lease.clone(), lease], 9, source)
    };
    let claimed = claim(&storage, &twice(Source::Pending)).await;
    assert_eq!(ids(&claimed).len(), 3);
    expire(&mut ours).await;
    execute(
        &mut ours,
        "update outbox_message set lease_losses = 9 where id = 2",
    )
    .await;
    let taken = claim(&storage, &twice(Source::Expired)).await;
    assert_eq!((ids(&taken).len(), taken.dead.len()), (2, 1));
}

/// In the first claim as a text or, where it is large, by its id; when that is resumed as rows.
#[tokio::test]
async fn a_message_is_the_same_however_it_is_read() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    // Beside the payload there are 32 bytes of no fixed size, and up to 1 KiB are small.
    let payloads = [0, 3, 992, 993, 10_000].map(|size| {
        let bytes = (0..=u8::MAX).rev().cycle();
        bytes.take(size).collect::<Vec<u8>>()
    });
    for payload in &payloads {
        let digits: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        let insert = format!(
            "insert into outbox_message (queue, kind, content_type, priority, key, group_key, tag,
                 attempts, max_attempts, deliveries, created_at, next_attempt_at, lease_losses,
                 headers, payload)
             values ('q', 'a\"b', 'text/x', 2, 'key-{:05}', 'gr\u{fc}p', 'tag', 4, 9, 6, 1500, 2000, 1,
                 '{{\"h\":\"v\"}}', x'{digits}')",
            payload.len()
        );
        execute(&mut ours, &insert).await;
    }
    let request = pending("q", 9);
    let first = claim(&storage, &request).await;
    let resumed = claim(&storage, &request.clone().resumed()).await;
    for claimed in [&first, &resumed] {
        assert_eq!(
            ids(claimed).iter().map(|id| id.0).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5]
        );
        for (message, payload) in claimed.messages.iter().zip(&payloads) {
            assert_eq!(&message.payload, payload);
            assert_eq!((&*message.queue, &*message.kind), ("q", "a\"b"));
            assert_eq!(&*message.content_type, "text/x");
            assert_eq!(message.headers.get("h"), Some("v"));
            assert_eq!(message.key, Some(format!("key-{:05}", payload.len())));
            assert_eq!(message.group.as_deref(), Some("gr\u{fc}p"));
            assert_eq!(message.tag.as_deref(), Some("tag"));
            assert_eq!((message.attempt, message.max_attempts), (5, 9));
            assert_eq!((message.deliveries, message.lease_losses), (7, 1));
            let created_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
            assert_eq!(message.created_at, created_at);
            let now = created_at.elapsed().unwrap();
            assert!(message.age <= now && message.age + Duration::from_secs(60) > now);
        }
    }
}

#[tokio::test]
async fn a_settle_is_written_as_a_whole_or_not_at_all() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    fill(&mut ours, "q", 4).await;
    let claimed = claim(&storage, &pending("q", 4)).await;
    // The dead letters refuse the one that comes last, after a delete and an update.
    execute(
        &mut ours,
        "create trigger refuse before insert on outbox_dead_letter
         begin select raise(abort, 'no room for the dead'); end",
    )
    .await;
    let mut mixed = settlements(&claimed, &Verdict::Done);
    mixed[1].verdict = Verdict::Release;
    mixed[2].verdict = Verdict::Dead {
        reason: DeadReason::Rejected,
        error: String::new(),
    };
    let error = storage.settle(&mixed).await.unwrap_err();
    assert!(!error.is_transient(), "{error:?}");
    assert_eq!(number(&mut ours, LEASED).await, 4);
    // No lock is left behind by what failed.
    execute(&mut ours, "drop trigger refuse").await;
    let written = storage.settle(&mixed).await.unwrap().written;
    assert_eq!(written.len(), 4);
    assert_eq!(number(&mut ours, MESSAGES).await, 1);
    assert_eq!(number(&mut ours, DEAD).await, 1);
}

#[tokio::test]
async fn what_changes_between_the_look_and_the_takeover_is_left_alone() {
    let (file, storage) = migrated().await;
    let mut holder = file.connect().await.unwrap();
    let outbox = SqliteOutbox::new();
    for polls in SPINS {
        // The last two are on their last attempt.
        let attempts = [9, 9, 9, 9, 1, 1];
        let drafts = attempts.map(|attempts| message("q").max_attempts(attempts));
        outbox.enqueue_many(&mut holder, drafts).await.unwrap();
        let held = claim(&storage, &pending("q", 6)).await;
        expire(&mut holder).await;
        let id = |place: usize| held.messages[place].id;
        // Held by the holder, the write lock stops the claim between its look and its write.
        let mut tx = holder.begin_with("begin immediate").await.unwrap();
        let request = expired("q", 9);
        let mut claiming = pin!(claim(&storage, &request));
        assert!(spin(polls, claiming.as_mut()).await.is_none());
        let renew = format!(
            "update outbox_message set lease_expires_at = {NOW} + 60000 where id in ({}, {})",
            id(1),
            id(4)
        );
        execute(&mut tx, &renew).await;
        let settle = format!("delete from outbox_message where id = {}", id(2));
        execute(&mut tx, &settle).await;
        tx.commit().await.unwrap();
        let taken = claiming.await;
        assert_eq!(ids(&taken), [id(0), id(3)], "after {polls} polls");
        let dead: Vec<_> = taken.dead.iter().map(|dead| dead.id).collect();
        assert_eq!(dead, [id(5)], "after {polls} polls");
        assert_eq!(number(&mut holder, MESSAGES).await, 4);
        let clean = "delete from outbox_message; delete from outbox_dead_letter";
        execute(&mut holder, clean).await;
    }
}

#[tokio::test]
async fn a_claim_that_comes_too_late_says_when_to_come_back() {
    let (file, storage) = migrated().await;
    let mut other = file.connect().await.unwrap();
    let outbox = SqliteOutbox::new();
    for polls in SPINS {
        let later = message("q").after(Duration::from_secs(60));
        let drafts = [message("q"), later];
        outbox.enqueue_many(&mut other, drafts).await.unwrap();
        let mut tx = other.begin_with("begin immediate").await.unwrap();
        let request = pending("q", 9);
        let mut claiming = pin!(claim(&storage, &request));
        assert!(polls == 0 || spin(polls, claiming.as_mut()).await.is_none());
        execute(
            &mut tx,
            "delete from outbox_message where next_attempt_at = created_at",
        )
        .await;
        tx.commit().await.unwrap();
        let claimed = claiming.await;
        assert_eq!(ids(&claimed), [], "after {polls} polls");
        let due = claimed.next_due.unwrap();
        assert!(
            due > Duration::from_secs(50),
            "after {polls} polls: {due:?}"
        );
        execute(&mut other, "delete from outbox_message").await;
    }
}

#[tokio::test]
async fn a_claim_is_resumed_after_its_lost_call_has_committed() {
    let (file, storage) = migrated().await;
    let mut other = file.connect().await.unwrap();
    fill(&mut other, "q", 4).await;
    let request = pending("q", 2).resumed();
    // The lost call of the same token, at its commit.
    let mut tx = other.begin_with("begin immediate").await.unwrap();
    let token = request.token.as_uuid().simple();
    let lease = format!(
        "update outbox_message set acquired_token = unhex('{token}'), acquired_at = {NOW},
             lease_expires_at = {NOW} + 30000, attempts = 1, deliveries = 1 where id > 2"
    );
    execute(&mut tx, &lease).await;
    let mut resuming = pin!(claim(&storage, &request));
    assert!(spin(20_000, resuming.as_mut()).await.is_none());
    tx.commit().await.unwrap();
    let resumed = resuming.await;
    let found: Vec<i64> = resumed
        .messages
        .iter()
        .map(|message| message.id.0)
        .collect();
    assert_eq!(found, [3, 4]);
    assert_eq!(number(&mut other, LEASED).await, 2);
}

#[tokio::test]
async fn two_storages_never_lease_the_same_message() {
    let (file, storage) = migrated().await;
    let other = storage_of(&file).await;
    let mut ours = file.connect().await.unwrap();
    for _ in 0..20 {
        fill(&mut ours, "q", 30).await;
        let (one, two) = (pending("q", 20), pending("q", 20));
        let (one, two) = tokio::join!(claim(&storage, &one), claim(&other, &two));
        let mut all = ids(&one);
        all.extend(ids(&two));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), one.messages.len() + two.messages.len());
        assert!(all.len() >= 20, "{all:?}");
        for (holder, claimed) in [(&storage, &one), (&other, &two)] {
            let done = settlements(claimed, &Verdict::Done);
            let written = holder.settle(&done).await.unwrap().written;
            assert_eq!(written.len(), claimed.messages.len());
        }
        execute(&mut ours, "delete from outbox_message").await;
    }
}

#[tokio::test]
async fn a_lost_reply_is_asked_for_again_by_its_token() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    fill(&mut ours, "q", 7).await;
    let others = claim(&storage, &pending("q", 2)).await;
    let mut request = pending("q", 3);
    let first = claim(&storage, &request).await;
    expire(&mut ours).await;
    request.limit = 2;
    let again = claim(&storage, &request.clone().resumed()).await;
    assert_eq!(ids(&again), ids(&first)[..2]);
    let message = &again.messages[0];
    assert_eq!((message.attempt, message.deliveries), (1, 1));
    let live = format!("{LEASED} and lease_expires_at > {NOW} + 20000");
    assert_eq!(number(&mut ours, &live).await, 2);
    assert_eq!(number(&mut ours, LEASED).await, 4);
    let given_back = format!("{MESSAGES} where attempts = 0 and deliveries = 1");
    assert_eq!(number(&mut ours, &given_back).await, 1);
    let done = settlements(&others, &Verdict::Done);
    assert_eq!(storage.settle(&done).await.unwrap().written, ids(&others));
    let fresh = pending("q", 9).resumed();
    assert_eq!(claim(&storage, &fresh).await.messages.len(), 3);
}

#[tokio::test]
async fn a_renewal_tells_holders_from_others_and_never_shortens() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    fill(&mut ours, "q", 3).await;
    let claimed = claim(&storage, &pending("q", 2)).await;
    let held = claimed.messages[0].held();
    let mut foreign = claimed.messages[1].held();
    foreign.token = LeaseToken::random();
    let mut unleased = held;
    unleased.id.0 = 3;
    let left = format!(
        "select lease_expires_at - {NOW} from outbox_message where id = {}",
        held.id
    );
    for (lease_ttl, expected) in [(600, 600_000), (10, 600_000), (700, 700_000)] {
        let renewals = [foreign, held, unleased]
            .map(|held| Renewal::new(held, Duration::from_secs(lease_ttl)));
        let renewed = storage.renew(&renewals).await.unwrap();
        assert_eq!(renewed.renewed, [held.id]);
        assert_eq!(renewed.lost, [foreign.id, unleased.id]);
        let left = number(&mut ours, &left).await;
        assert!((expected - 5_000..=expected).contains(&left), "{left}");
    }
    assert!(storage.renew(&[]).await.unwrap().renewed.is_empty());
}

/// A settle sends each token once, with all its ids: not so that any of them would do.
#[tokio::test]
async fn a_message_is_settled_by_its_own_token_and_not_by_another_of_the_batch() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    fill(&mut ours, "q", 4).await;
    let first = claim(&storage, &pending("q", 2)).await;
    let second = claim(&storage, &pending("q", 2)).await;
    let settle = |message: &Claimed, of: &Claimed| {
        let (mut held, token) = (message.held(), of.held().token);
        held.token = token;
        Settlement::new(held, Verdict::Done)
    };
    let (a, b) = (&first.messages, &second.messages);
    let batch = [
        settle(&a[0], &b[0]),
        settle(&b[0], &a[0]),
        settle(&a[1], &a[1]),
        settle(&b[1], &b[1]),
    ];
    let settled = storage.settle(&batch).await.unwrap();
    let mut written = settled.written;
    written.sort_unstable();
    assert_eq!(written, [a[1].id, b[1].id]);
    assert_eq!(number(&mut ours, LEASED).await, 2);
}
