//! Rows that other programs wrote: whatever the columns allow, one row never stops its queue.

use std::time::Duration;

use outbox_core::{DeadReason, MessageId, Storage, Verdict};
use outbox_sqlx::{DeadLetterQuery, Revived};

use crate::support::{
    DEAD, MESSAGES, claim, execute, expired, file, fill, ids, migrated, number, pending,
    settlements, storage_of, texts,
};

const YEAR: Duration = Duration::from_secs(365 * 86_400);
const LATEST: i64 = i64::MAX;
const EARLIEST: i64 = i64::MIN;

#[tokio::test]
async fn rows_written_by_hand_do_not_fail_a_claim() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    // Texts that are not UTF-8 among them, which SQLite keeps as they are.
    let sql = format!(
        "insert into outbox_message (queue, kind, payload, content_type, headers, key, tag,
             created_at, next_attempt_at, attempts, deliveries, lease_losses)
         values ('q', cast(x'ff61' as text), x'ff', 'x', '[1, 2]', cast(x'fe' as text),
                    'nul' || char(0), {LATEST}, {EARLIEST}, 32767, 2147483647, 0),
                ('q', 'k', x'', 'x', '{{\"n\": 1}}', null, null, {EARLIEST}, 0, 0, 0, 32767)"
    );
    execute(&mut ours, &sql).await;
    let claimed = claim(&storage, &pending("q", 9)).await;
    let [first, second] = &claimed.messages[..] else {
        panic!("{claimed:?}")
    };
    assert!(first.headers.is_empty());
    assert_eq!(first.payload, [0xff]);
    assert_eq!(first.kind.as_ref(), "\u{fffd}a");
    assert_eq!(first.key.as_deref(), Some("\u{fffd}"));
    assert_eq!(first.tag.as_deref(), Some("nul\0"));
    assert_eq!((first.attempt, first.deliveries), (32_767, 2_147_483_647));
    assert_eq!(first.age, Duration::ZERO);
    assert_eq!(second.headers.get("n"), Some("1"));
    assert_eq!(second.lease_losses, 32_767);
    assert!(second.age > YEAR * 1000);
    let released = settlements(&claimed, &Verdict::Release);
    assert_eq!(storage.settle(&released).await.unwrap().written.len(), 2);
    assert_eq!(claim(&storage, &pending("q", 9)).await.messages.len(), 2);
}

/// Packed in a text, as rows, and large: half a surrogate pair is no character, and all others stay.
#[tokio::test]
async fn texts_of_a_file_in_utf_16_arrive_as_they_are() {
    let file = file();
    file.execute("pragma encoding = 'UTF-16le'; create table theirs (n)")
        .await
        .unwrap();
    let storage = storage_of(&file).await;
    storage.migrate().await.unwrap();
    let mut ours = file.connect().await.unwrap();
    let sql = "with with_all (rest) as (values ('\u{1f980}' || char(0, 10, 13, 34, 92, 8232)))
        insert into outbox_message (queue, kind, payload, content_type, key, tag)
        select 'q\u{fc}', 'k', x'00ff', 'x', 'a' || rest, cast(x'610000d8' as text) from with_all
        union all select 'q\u{fc}', 'k', zeroblob(2000), 'x', 'b' || rest, null from with_all";
    execute(&mut ours, sql).await;
    assert_eq!(texts(&mut ours, "pragma encoding").await, ["UTF-16le"]);
    let request = pending("q\u{fc}", 9);
    let first = claim(&storage, &request).await;
    let resumed = claim(&storage, &request.clone().resumed()).await;
    for claimed in [&first, &resumed] {
        let [small, large] = &claimed.messages[..] else {
            panic!("{claimed:?}")
        };
        assert_eq!(
            (&*small.queue, &small.payload[..]),
            ("q\u{fc}", &[0, 255][..])
        );
        assert_eq!(large.payload.len(), 2_000);
        for (message, letter) in [(small, 'a'), (large, 'b')] {
            let key = format!("{letter}\u{1f980}\0\n\r\"\\\u{2028}");
            assert_eq!(message.key, Some(key));
        }
        assert!(small.tag.as_deref().unwrap().starts_with("a\u{fffd}"));
    }
    let done = settlements(&first, &Verdict::Done);
    assert_eq!(storage.settle(&done).await.unwrap().written.len(), 2);
}

#[tokio::test]
async fn times_that_never_come_or_always_were_do_not_fail_an_empty_claim() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    fill(&mut ours, "q", 2).await;
    claim(&storage, &pending("q", 1)).await;
    for (end, lease_ends) in [(LATEST, false), (EARLIEST, true)] {
        let sql = format!(
            "update outbox_message set next_attempt_at = {LATEST};
             update outbox_message set lease_expires_at = {end}
             where acquired_token is not null"
        );
        execute(&mut ours, &sql).await;
        let answer = claim(&storage, &pending("q", 9)).await;
        assert_eq!(ids(&answer), [], "{end}");
        assert!(answer.next_due.unwrap() > YEAR * 90);
        assert_eq!(answer.next_expiry.unwrap().is_zero(), lease_ends, "{end}");
    }
    let taken = claim(&storage, &expired("q", 9)).await;
    assert_eq!(taken.messages.len(), 1);
}

#[tokio::test]
async fn counters_at_their_end_stay_there_when_a_lease_is_lost() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    fill(&mut ours, "q", 3).await;
    let claimed = claim(&storage, &pending("q", 3)).await;
    let [first, crashing, exhausted] = ids(&claimed)[..] else {
        panic!("three messages were claimed")
    };
    let sql = format!(
        "update outbox_message set deliveries = 2147483647, lease_expires_at = {EARLIEST};
         update outbox_message set lease_losses = 32767 where id = {crashing};
         update outbox_message set attempts = 32767, max_attempts = 32767 where id = {exhausted}"
    );
    execute(&mut ours, &sql).await;
    let mut request = expired("q", 9);
    request.queues[0].max_attempts = Some(u16::MAX);
    // A queue that allows more attempts than can be counted keeps the message going.
    let taken = claim(&storage, &request).await;
    assert_eq!(ids(&taken), [first, exhausted]);
    assert_eq!(taken.messages[0].deliveries, 2_147_483_647);
    let [dead] = &taken.dead[..] else {
        panic!("{:?}", taken.dead)
    };
    assert_eq!((dead.id, dead.reason), (crashing, DeadReason::Crashed));

    let sql = format!("update outbox_dead_letter set died_at = {LATEST}");
    execute(&mut ours, &sql).await;
    let letters = storage.dead_letters(&DeadLetterQuery::all()).await.unwrap();
    assert_eq!((letters[0].id, letters[0].lease_losses), (crashing, 32_767));
    assert_eq!(storage.revive(crashing).await.unwrap(), Revived::Revived);
    let revived = claim(&storage, &pending("q", 9)).await;
    assert_eq!(revived.messages[0].deliveries, 2_147_483_647);
    assert_eq!(number(&mut ours, MESSAGES).await, 3);
}

#[tokio::test]
async fn delays_of_any_length_are_written() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    fill(&mut ours, "q", 1).await;
    let mut request = pending("q", 1);
    request.queues[0].lease_ttl = Duration::MAX;
    let claimed = claim(&storage, &request).await;
    let snooze = Verdict::Snooze {
        after: Duration::MAX,
    };
    let written = storage.settle(&settlements(&claimed, &snooze)).await;
    assert_eq!(written.unwrap().written.len(), 1);
    let later = claim(&storage, &request).await;
    assert!(later.next_due.unwrap() > YEAR * 90);
}

fn numbers(ids: &[MessageId]) -> Vec<i64> {
    ids.iter().map(|id| id.0).collect()
}

#[tokio::test]
async fn where_ids_begin_again_both_dead_letters_are_kept() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    let dead = Verdict::Dead {
        reason: DeadReason::Rejected,
        error: String::new(),
    };
    for round in 1..=3_i64 {
        fill(&mut ours, "q", 4).await;
        let claimed = claim(&storage, &pending("q", 4)).await;
        assert_eq!(numbers(&ids(&claimed)), [1, 2, 3, 4]);
        // Two are settled as dead letters, two end as such.
        let settlements = &settlements(&claimed, &dead)[..2];
        let written = storage.settle(settlements).await.unwrap().written;
        assert_eq!(numbers(&written), [1, 2]);
        let sql = "update outbox_message set lease_losses = 2, lease_expires_at = 1";
        execute(&mut ours, sql).await;
        let taken = claim(&storage, &expired("q", 9)).await;
        let found: Vec<_> = taken
            .dead
            .iter()
            .map(|dead| (dead.id.0, dead.reason))
            .collect();
        assert_eq!(found, [(3, DeadReason::Crashed), (4, DeadReason::Crashed)]);
        assert_eq!(number(&mut ours, MESSAGES).await, 0);
        assert_eq!(number(&mut ours, DEAD).await, 4 * round);
        execute(&mut ours, "delete from sqlite_sequence").await;
    }
    fill(&mut ours, "q", 1).await;
    let first = DeadLetterQuery::all().limit(1);
    let first = storage.dead_letters(&first).await.unwrap().remove(0);
    assert_eq!(first.id.0, 1);
    // Its id is a live message's.
    assert_eq!(storage.revive(first.id).await.unwrap(), Revived::KeyTaken);
    assert_eq!(number(&mut ours, DEAD).await, 12);
}
