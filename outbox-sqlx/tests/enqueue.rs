//! Enqueueing in the caller's transaction: what exists after which end of it.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, SystemTime};

use outbox_core::{Cancel, Draft, Error, ErrorKind, MessageId, Storage};
use outbox_sqlx::{Enqueued, PgOutbox};
use sqlx::{Connection, PgConnection};
use support::{claim, database, execute, expire, message, number, pending, texts};

const COUNT: &str = "select count(*) from outbox.message";

async fn enqueue(connection: &mut PgConnection, draft: Draft) -> Enqueued {
    PgOutbox::new().enqueue(connection, draft).await.unwrap()
}

#[tokio::test]
async fn a_message_exists_only_once_its_transaction_commits() {
    let database = database().await;
    database.storage().await;
    let (mut ours, mut other) = (database.connect().await, database.connect().await);
    let mut tx = ours.begin().await.unwrap();
    PgOutbox::new()
        .enqueue(&mut tx, message("mail"))
        .await
        .unwrap();
    assert_eq!(number(&mut other, COUNT).await, 0);
    tx.commit().await.unwrap();
    assert_eq!(number(&mut other, COUNT).await, 1);
}

#[tokio::test]
async fn a_rollback_leaves_no_message() {
    let database = database().await;
    database.storage().await;
    let mut ours = database.connect().await;
    let mut tx = ours.begin().await.unwrap();
    PgOutbox::new()
        .enqueue(&mut tx, message("mail"))
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(number(&mut ours, COUNT).await, 0);
}

#[tokio::test]
async fn a_savepoint_rollback_takes_only_its_own_messages() {
    let database = database().await;
    database.storage().await;
    let outbox = PgOutbox::new();
    let mut ours = database.connect().await;
    let mut tx = ours.begin().await.unwrap();
    outbox.enqueue(&mut tx, message("kept")).await.unwrap();
    let mut savepoint = tx.begin().await.unwrap();
    outbox
        .enqueue(&mut savepoint, message("undone"))
        .await
        .unwrap();
    savepoint.rollback().await.unwrap();
    tx.commit().await.unwrap();
    let queues = texts(&mut ours, "select queue from outbox.message").await;
    assert_eq!(queues, ["kept"]);
}

#[tokio::test]
async fn every_kind_of_connection_of_the_caller_works() {
    let database = database().await;
    database.storage().await;
    let outbox = PgOutbox::new();
    let pool = database.pool(2).await;
    let mut pooled = pool.acquire().await.unwrap();
    outbox.enqueue(&mut pooled, message("a")).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    outbox.enqueue(&mut tx, message("a")).await.unwrap();
    outbox
        .enqueue_many(&mut tx, [message("a"), message("a")])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let mut plain = database.connect().await;
    outbox.enqueue(&mut plain, message("a")).await.unwrap();
    assert_eq!(number(&mut plain, COUNT).await, 5);
}

#[tokio::test]
async fn a_refused_message_leaves_the_transaction_usable() {
    let database = database().await;
    database.storage().await;
    let outbox = PgOutbox::new().max_payload_bytes(100);
    let mut ours = database.connect().await;
    let mut tx = ours.begin().await.unwrap();
    let long = "x".repeat(256);
    let refused = || {
        [
            Draft::json("", "k", &1),
            Draft::json(long.clone(), "k", &1),
            Draft::json("q", long.clone(), &1),
            Draft::json("q\0", "k", &1),
            Draft::json("q", "k\0", &1),
            Draft::bytes("q", "k", vec![0; 101]),
            message("q").key("\0"),
            message("q").group("\0"),
            message("q").tag("\0"),
            message("q").content_type("\0"),
            message("q").header("\0", "v"),
            message("q").header("n", "\0"),
            message("q").priority(4),
            message("q").priority(-4),
            message("q").max_attempts(0),
            message("q").key(""),
        ]
    };
    for (alone, among) in refused().into_iter().zip(refused()) {
        let what = format!("{alone:?}");
        let error = outbox.enqueue(&mut tx, alone).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidMessage, "{what}");
        let many = outbox.enqueue_many(&mut tx, [message("q"), among]).await;
        assert_eq!(
            many.unwrap_err().kind(),
            ErrorKind::InvalidMessage,
            "{what}"
        );
    }
    outbox.enqueue(&mut tx, message("q")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(number(&mut ours, COUNT).await, 1);
}

#[tokio::test]
async fn every_field_arrives_as_it_was_given() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    let payload = vec![0, 1, 0xff, b'\\', 0];
    let id = enqueue(
        &mut ours,
        Draft::bytes("mail", "raw", payload.clone())
            .header("a", "1\n\"\\ ä")
            .header("b", "")
            .priority(-3)
            .key("k")
            .group("g")
            .tag("t")
            .max_attempts(7)
            .content_type("application/x-test"),
    )
    .await
    .id()
    .unwrap();
    let claim = claim(&storage, &pending("mail", 1)).await;
    let got = &claim.messages[0];
    assert_eq!(got.id, id);
    assert_eq!(got.kind.as_ref(), "raw");
    assert_eq!(got.payload, payload);
    assert_eq!(got.content_type.as_ref(), "application/x-test");
    assert_eq!(got.headers.get("a"), Some("1\n\"\\ ä"));
    assert_eq!(got.headers.get("b"), Some(""));
    assert_eq!(
        (got.key.as_deref(), got.group.as_deref(), got.tag.as_deref()),
        (Some("k"), Some("g"), Some("t"))
    );
    assert_eq!((got.attempt, got.max_attempts), (1, 7));
    assert_eq!((got.deliveries, got.lease_losses), (1, 0));
    let age = SystemTime::now()
        .duration_since(got.created_at)
        .unwrap_or_default();
    assert!(age < Duration::from_secs(60), "{age:?}");
    assert!(got.age < Duration::from_secs(60), "{:?}", got.age);
}

#[tokio::test]
async fn a_live_key_makes_a_duplicate_and_not_an_error() {
    let database = database().await;
    let storage = database.storage().await;
    let outbox = PgOutbox::new();
    let mut ours = database.connect().await;
    let mut tx = ours.begin().await.unwrap();
    let keyed = || message("mail").key("k");
    let first = outbox.enqueue(&mut tx, keyed()).await.unwrap();
    assert!(first.id().is_some());
    assert_eq!(
        outbox.enqueue(&mut tx, keyed()).await.unwrap(),
        Enqueued::Duplicate
    );
    let elsewhere = outbox.enqueue(&mut tx, keyed().queue("sms")).await.unwrap();
    assert!(elsewhere.id().is_some());
    tx.commit().await.unwrap();
    let held = claim(&storage, &pending("mail", 1)).await;
    assert_eq!(enqueue(&mut ours, keyed()).await, Enqueued::Duplicate);
    let settled = support::settle_all(&held, &outbox_core::Verdict::Done);
    assert_eq!(storage.settle(&settled).await.unwrap().written.len(), 1);
    assert!(enqueue(&mut ours, keyed()).await.id().is_some());
}

#[tokio::test]
async fn many_keep_their_order_and_report_duplicates_in_place() {
    let database = database().await;
    let storage = database.storage().await;
    let outbox = PgOutbox::new();
    let mut ours = database.connect().await;
    enqueue(&mut ours, message("q").key("live")).await;
    let drafts = [
        message("q").key("live"),
        message("q"),
        message("q").key("new"),
        message("q").key("new"),
        message("other").key("live"),
        message("q"),
        message("q").key("live"),
    ];
    let enqueued = outbox.enqueue_many(&mut ours, drafts).await.unwrap();
    let written: Vec<bool> = enqueued.iter().map(|one| one.id().is_some()).collect();
    assert_eq!(written, [false, true, true, false, true, true, false]);
    let ids: Vec<MessageId> = enqueued.iter().filter_map(|one| one.id()).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    let stored = texts(
        &mut ours,
        "select queue || coalesce(':' || key, '') from outbox.message order by id offset 1",
    )
    .await;
    assert_eq!(stored, ["q", "q:new", "other:live", "q"]);
    let claim = claim(&storage, &pending("other", 9)).await;
    assert_eq!(support::ids(&claim), [ids[2]]);
    let none: [Draft; 0] = [];
    assert_eq!(outbox.enqueue_many(&mut ours, none).await.unwrap(), []);
}

/// Columns in which all messages agree travel once, and those that nobody fills not at all.
#[tokio::test]
async fn many_are_stored_as_they_are_one_by_one() {
    let database = database().await;
    database.storage().await;
    let mut ours = database.connect().await;
    let outbox = PgOutbox::new();
    let instant = SystemTime::now() + Duration::from_secs(86_400);
    let rich = |queue: &'static str, n: i16| {
        Draft::bytes(queue, format!("kind {n}"), vec![n.to_le_bytes()[0]; 3])
            .content_type(format!("type {n}"))
            .header("n", n.to_string())
            .priority(n)
            .group(format!("group {n}"))
            .tag(format!("tag {n}"))
            .max_attempts(u16::try_from(n + 5).unwrap())
            .after(Duration::from_secs(3_600 * u64::try_from(n + 3).unwrap()))
    };
    let plain = || message("q");
    let batches: [&dyn Fn() -> Vec<Draft>; 8] = [
        &|| vec![plain(), plain(), plain()],
        &|| vec![rich("a", 1), rich("a", 1), rich("a", 1)],
        &|| vec![rich("a", 1), rich("b", 2), rich("a", -3)],
        &|| vec![plain(), plain(), rich("b", 3)],
        &|| vec![rich("b", 3), plain(), plain()],
        &|| vec![plain(), plain().at(instant), plain()],
        &|| vec![plain(), plain().key("k"), rich("a", 2).key("k")],
        &|| vec![rich("a", 1).key("1"), rich("a", 1).key("2")],
    ];
    let stored = "select row(queue, kind, payload, content_type, headers, priority, key, group_key,
        tag, max_attempts, round(extract(epoch from next_attempt_at - created_at) / 60))::text
        from outbox.message order by id";
    for (place, batch) in batches.into_iter().enumerate() {
        let mut tx = ours.begin().await.unwrap();
        for draft in batch() {
            outbox.enqueue(&mut tx, draft).await.unwrap();
        }
        let one_by_one = texts(&mut tx, stored).await;
        tx.rollback().await.unwrap();
        let mut tx = ours.begin().await.unwrap();
        outbox.enqueue_many(&mut tx, batch()).await.unwrap();
        assert_eq!(texts(&mut tx, stored).await, one_by_one, "batch {place}");
        tx.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn more_messages_than_one_statement_takes_are_all_written() {
    let database = database().await;
    database.storage().await;
    let mut ours = database.connect().await;
    let mut tx = ours.begin().await.unwrap();
    let drafts = (0..12_001).map(|_| message("q"));
    let enqueued = PgOutbox::new().enqueue_many(&mut tx, drafts).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(enqueued.len(), 12_001);
    assert!(enqueued.iter().all(|one| one.id().is_some()));
    assert_eq!(number(&mut ours, COUNT).await, 12_001);
}

#[tokio::test]
async fn delays_are_added_by_the_database_and_instants_are_taken_literally() {
    let database = database().await;
    let storage = database.storage().await;
    let outbox = PgOutbox::new();
    let mut ours = database.connect().await;
    let instant = SystemTime::UNIX_EPOCH + Duration::from_millis(4_102_444_800_250);
    enqueue(&mut ours, message("q").after(Duration::from_secs(3600))).await;
    enqueue(&mut ours, message("q").at(instant)).await;
    outbox
        .enqueue_many(
            &mut ours,
            [
                message("q").after(Duration::from_secs(3600)),
                message("q").at(instant),
            ],
        )
        .await
        .unwrap();
    let hours = "select count(*) from outbox.message
        where next_attempt_at between now() + interval '59 minutes' and now() + interval '1 hour'";
    assert_eq!(number(&mut ours, hours).await, 2);
    let literal = "select count(*) from outbox.message
        where next_attempt_at = timestamptz '2100-01-01 00:00:00.25+00'";
    assert_eq!(number(&mut ours, literal).await, 2);
    let claim = claim(&storage, &pending("q", 9)).await;
    assert_eq!(support::ids(&claim), []);
    let due = claim.next_due.unwrap();
    assert!(due > Duration::from_secs(3000) && due <= Duration::from_secs(3600));
}

#[tokio::test]
async fn a_message_of_the_past_is_due_at_once() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    enqueue(&mut ours, message("q").at(SystemTime::UNIX_EPOCH)).await;
    assert_eq!(claim(&storage, &pending("q", 9)).await.messages.len(), 1);
}

#[tokio::test]
async fn cancelling_refuses_what_is_held_and_says_what_it_found() {
    let database = database().await;
    let storage = database.storage().await;
    let outbox = PgOutbox::new();
    let mut ours = database.connect().await;
    let id = enqueue(&mut ours, message("q").key("k"))
        .await
        .id()
        .unwrap();
    assert_eq!(
        outbox.cancel(&mut ours, MessageId(id.0 + 1)).await.unwrap(),
        Cancel::NotFound
    );
    assert_eq!(
        outbox.cancel_key(&mut ours, "other", "k").await.unwrap(),
        Cancel::NotFound
    );
    claim(&storage, &pending("q", 1)).await;
    assert_eq!(outbox.cancel(&mut ours, id).await.unwrap(), Cancel::Leased);
    assert_eq!(
        outbox.cancel_key(&mut ours, "q", "k").await.unwrap(),
        Cancel::Leased
    );
    expire(&mut ours).await;
    assert_eq!(
        outbox.cancel_key(&mut ours, "q", "k").await.unwrap(),
        Cancel::Cancelled
    );
    let id = enqueue(&mut ours, message("q").key("k"))
        .await
        .id()
        .unwrap();
    assert_eq!(
        outbox.cancel(&mut ours, id).await.unwrap(),
        Cancel::Cancelled
    );
    assert_eq!(
        outbox.cancel(&mut ours, id).await.unwrap(),
        Cancel::NotFound
    );
    assert_eq!(number(&mut ours, COUNT).await, 0);
}

#[tokio::test]
async fn a_cancel_is_undone_with_its_transaction() {
    let database = database().await;
    database.storage().await;
    let outbox = PgOutbox::new();
    let mut ours = database.connect().await;
    let id = enqueue(&mut ours, message("q")).await.id().unwrap();
    let mut tx = ours.begin().await.unwrap();
    assert_eq!(outbox.cancel(&mut tx, id).await.unwrap(), Cancel::Cancelled);
    tx.rollback().await.unwrap();
    assert_eq!(number(&mut ours, COUNT).await, 1);
}

#[tokio::test]
async fn the_storage_enqueues_in_a_transaction_of_its_own() {
    let database = database().await;
    let storage = database.storage().await;
    let keyed = || message("q").key("k").check(100).unwrap();
    let ids = storage
        .enqueue(vec![keyed(), message("q").check(100).unwrap(), keyed()])
        .await
        .unwrap();
    let written: Vec<bool> = ids.iter().map(Option::is_some).collect();
    assert_eq!(written, [true, true, false]);
    assert_eq!(storage.enqueue(Vec::new()).await.unwrap(), []);
}

#[tokio::test]
async fn the_database_refuses_what_others_write_wrongly() {
    let database = database().await;
    database.storage().await;
    let mut ours = database.connect().await;
    let insert = "insert into outbox.message (queue, kind, payload, content_type";
    for (columns, values) in [
        ("acquired_token", "gen_random_uuid()"),
        ("lease_expires_at", "now()"),
        ("acquired_at", "now()"),
        ("acquired_at, lease_expires_at", "now(), now()"),
        ("priority", "4"),
        ("attempts", "-1"),
        ("max_attempts", "0"),
    ] {
        let sql = format!("{insert}, {columns}) values ('q', 'k', '', 't', {values})");
        let refused = sqlx::query(sqlx::AssertSqlSafe(sql))
            .execute(&mut ours)
            .await;
        let code = refused.unwrap_err().into_database_error().unwrap();
        assert_eq!(code.code().unwrap(), "23514", "{columns}");
    }
    execute(
        &mut ours,
        "insert into outbox.message (queue, kind, payload, content_type) values ('q', 'k', '', 't')",
    )
    .await;
}

#[tokio::test]
async fn an_aborted_transaction_asks_to_be_rolled_back() {
    let database = database().await;
    database.storage().await;
    let outbox = PgOutbox::new();
    let mut ours = database.connect().await;
    let mut tx = ours.begin().await.unwrap();
    sqlx::query("select 1 / 0")
        .execute(&mut *tx)
        .await
        .unwrap_err();
    let error = outbox.enqueue(&mut tx, message("q")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(
        error.advice().starts_with("roll the transaction back"),
        "{error}"
    );
    let many = outbox.enqueue_many(&mut tx, [message("q")]).await;
    let error = many.unwrap_err();
    assert!(
        error.advice().starts_with("roll the transaction back"),
        "{error}"
    );
    tx.rollback().await.unwrap();
    outbox.enqueue(&mut ours, message("q")).await.unwrap();
    assert_eq!(number(&mut ours, COUNT).await, 1);
}

#[tokio::test]
async fn an_unmigrated_database_is_named_as_such() {
    let database = database().await;
    let mut ours = database.connect().await;
    let error: Error = PgOutbox::new()
        .enqueue(&mut ours, message("q"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unmigrated);
    assert!(
        error.to_string().contains("PgStorage::migrate()"),
        "{error}"
    );
}
