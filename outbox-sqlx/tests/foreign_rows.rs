//! Rows that other programs wrote: whatever the columns allow, one row never stops its queue.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use outbox_core::{DeadReason, Storage, Verdict};
use outbox_sqlx::{DeadLetterQuery, Revived};
use support::{claim, database, execute, expired, fill, ids, number, pending, settle_all, texts};

const YEAR: Duration = Duration::from_secs(365 * 86_400);

#[tokio::test]
async fn rows_written_by_hand_do_not_fail_a_claim() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    execute(
        &mut ours,
        "insert into outbox.message (queue, kind, payload, content_type, headers, created_at,
             next_attempt_at, attempts, deliveries, lease_losses)
         values ('q', 'k', '\\xff', 'x', '[1, 2]', 'infinity', '-infinity', 32767, 2147483647, 0),
                ('q', 'k', '', 'x', '{\"n\": 1}', '-infinity', '4000-01-01 BC', 0, -5, -32768)",
    )
    .await;
    let claimed = claim(&storage, &pending("q", 9)).await;
    let [first, second] = &claimed.messages[..] else {
        panic!("{claimed:?}")
    };
    assert!(first.headers.is_empty());
    assert_eq!(first.payload, [0xff]);
    assert_eq!((first.attempt, first.deliveries), (32_767, 2_147_483_647));
    assert_eq!(first.age, Duration::ZERO);
    assert_eq!(second.headers.get("n"), Some("1"));
    assert_eq!(second.lease_losses, 0);
    assert!(second.age > YEAR * 1000);
    let settlements = settle_all(&claimed, &Verdict::Release);
    assert_eq!(storage.settle(&settlements).await.unwrap().written.len(), 2);
    assert_eq!(claim(&storage, &pending("q", 9)).await.messages.len(), 2);
}

#[tokio::test]
async fn times_that_never_come_or_always_were_do_not_fail_an_empty_claim() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 2).await;
    claim(&storage, &pending("q", 1)).await;
    let latest = "294276-12-31 23:59:59+00";
    let earliest = "4713-01-01 00:00:00+00 BC";
    // A message that is due is claimed and no empty answer, so only late times are for due ones.
    for (due, lease, due_in_years, lease_ends) in [
        ("infinity", "infinity", 90, false),
        ("infinity", "-infinity", 90, true),
        (latest, latest, 90, false),
        (latest, earliest, 90, true),
    ] {
        execute(
            &mut ours,
            &format!(
                "update outbox.message set next_attempt_at = '{due}';
                 update outbox.message set lease_expires_at = '{lease}'
                 where acquired_token is not null"
            ),
        )
        .await;
        let answer = claim(&storage, &pending("q", 9)).await;
        assert_eq!(ids(&answer), [], "{due}, {lease}");
        let next_due = answer.next_due.unwrap();
        assert!(next_due > YEAR * due_in_years, "{due}: {next_due:?}");
        let next_expiry = answer.next_expiry.unwrap();
        assert_eq!(next_expiry.is_zero(), lease_ends, "{lease}");
    }
    let taken = claim(&storage, &expired("q", 9)).await;
    assert_eq!(taken.messages.len(), 1);
    // What is due and locked by others makes an empty answer as well.
    let always = "update outbox.message set next_attempt_at = '-infinity'";
    execute(&mut ours, always).await;
    let lock = database.lock("select from outbox.message for update").await;
    let answer = claim(&storage, &pending("q", 9)).await;
    assert_eq!(
        (ids(&answer), answer.next_due),
        (vec![], Some(Duration::ZERO))
    );
    lock.release().await.unwrap();
    assert_eq!(claim(&storage, &pending("q", 9)).await.messages.len(), 1);
}

#[tokio::test]
async fn counters_at_their_end_stay_there_when_a_lease_is_lost() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 3).await;
    let claimed = claim(&storage, &pending("q", 3)).await;
    let id = |place: usize| claimed.messages[place].id;
    execute(
        &mut ours,
        &format!(
            "update outbox.message set deliveries = 2147483647, created_at = 'infinity',
                 lease_expires_at = '-infinity';
             update outbox.message set lease_losses = -32768 where id = {};
             update outbox.message set lease_losses = 32767 where id = {};
             update outbox.message set attempts = 32767, max_attempts = 32767 where id = {}",
            id(0),
            id(1),
            id(2)
        ),
    )
    .await;
    let mut request = expired("q", 9);
    request.queues[0].max_attempts = Some(u16::MAX);
    let taken = claim(&storage, &request).await;
    assert_eq!(ids(&taken), [id(0)]);
    assert_eq!(taken.messages[0].deliveries, 2_147_483_647);
    let again = claim(&storage, &request.clone().resumed()).await;
    assert_eq!(ids(&again), [id(0)]);
    assert_eq!(taken.dead.len(), 1);
    assert_eq!(
        (taken.dead[0].id, taken.dead[0].reason),
        (id(2), DeadReason::LeaseExpired)
    );
    let taken = claim(&storage, &expired("q", 9)).await;
    assert_eq!(
        (taken.dead[0].id, taken.dead[0].reason),
        (id(1), DeadReason::Crashed)
    );

    execute(
        &mut ours,
        "update outbox.dead_letter set died_at = 'infinity'",
    )
    .await;
    let letters = storage.dead_letters(&DeadLetterQuery::all()).await.unwrap();
    assert_eq!(letters.len(), 2);
    assert_eq!((letters[0].id, letters[0].lease_losses), (id(1), 32_767));
    assert_eq!(storage.revive(id(1)).await.unwrap(), Revived::Revived);
    let revived = claim(&storage, &pending("q", 9)).await;
    assert_eq!(revived.messages[0].deliveries, 2_147_483_647);
    let dead = Verdict::Dead {
        reason: DeadReason::Rejected,
        error: String::new(),
    };
    let settlements = settle_all(&revived, &dead);
    assert_eq!(storage.settle(&settlements).await.unwrap().written, [id(1)]);
    let left = "select count(*) from outbox.message";
    assert_eq!(number(&mut ours, left).await, 1);
}

/// Dead letters with the ids of all live messages, as where ids began again at one.
const TAKEN_IDS: &str = "insert into outbox.dead_letter
    select id, queue, kind, payload, content_type, headers, priority, key, group_key, tag, attempts,
        max_attempts, deliveries, lease_losses, created_at, now(), 'exhausted', 'older'
    from outbox.message";

#[tokio::test]
async fn an_expired_lease_becomes_a_dead_letter_even_if_another_one_has_its_id() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 2).await;
    let held = claim(&storage, &pending("q", 2)).await;
    execute(&mut ours, TAKEN_IDS).await;
    let lost = "update outbox.message set lease_losses = 2 where id = 1";
    execute(&mut ours, lost).await;
    support::expire(&mut ours).await;
    let mut taken = Vec::new();
    for _ in 0..2 {
        taken.extend(ids(&claim(&storage, &expired("q", 8)).await));
    }
    assert_eq!(taken, [held.messages[1].id]);
    let kept = "select message_id || ' ' || reason from outbox.dead_letter order by message_id";
    let kept = texts(&mut ours, kept).await;
    assert_eq!(kept, ["1 exhausted", "2 exhausted", "3 crashed"]);
}

#[tokio::test]
async fn settled_messages_become_dead_letters_even_if_others_have_their_ids() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    fill(&mut ours, "q", 4).await;
    let held = claim(&storage, &pending("q", 4)).await;
    execute(&mut ours, TAKEN_IDS).await;
    execute(
        &mut ours,
        "delete from outbox.dead_letter where message_id > 2",
    )
    .await;
    let dead = Verdict::Dead {
        reason: DeadReason::Rejected,
        error: "new".to_owned(),
    };
    let settled = storage.settle(&settle_all(&held, &dead)).await.unwrap();
    let mut written = settled.written;
    written.sort();
    assert_eq!(written, ids(&held));
    let kept = "select message_id || ' ' || last_error from outbox.dead_letter order by message_id";
    let kept = texts(&mut ours, kept).await;
    // Three and four keep their ids; one and two take the next free ones.
    assert_eq!(
        kept,
        ["1 older", "2 older", "3 new", "4 new", "5 new", "6 new"]
    );
    assert_eq!(
        number(&mut ours, "select count(*) from outbox.message").await,
        0
    );
}
