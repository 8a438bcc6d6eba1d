//! Enqueueing in the caller's transaction: what exists after which end of it.

use std::time::{Duration, SystemTime};

use outbox_core::{Cancel, Draft, ErrorKind, MessageId, Storage, Verdict};
use outbox_sqlx::Enqueued;
use outbox_sqlx::sqlite::SqliteOutbox;
use sqlx::{AssertSqlSafe, Connection};

use crate::support::{
    MESSAGES, NOW, claim, execute, expire, file, ids, message, migrated, number, pending,
    settlements, texts,
};

#[tokio::test]
async fn a_message_exists_if_and_only_if_its_transaction_commits() {
    let (file, _storage) = migrated().await;
    let outbox = SqliteOutbox::new();
    let (mut ours, mut other) = (file.connect().await.unwrap(), file.connect().await.unwrap());
    for (commits, after) in [(true, 1), (false, 1)] {
        let mut tx = ours.begin_with("begin immediate").await.unwrap();
        outbox.enqueue(&mut tx, message("mail")).await.unwrap();
        assert_eq!(number(&mut tx, MESSAGES).await, 1 + i64::from(!commits));
        if commits {
            assert_eq!(number(&mut other, MESSAGES).await, 0);
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        assert_eq!(number(&mut other, MESSAGES).await, after);
    }
}

#[tokio::test]
async fn a_savepoint_takes_only_its_own_messages_back() {
    let (file, _storage) = migrated().await;
    let outbox = SqliteOutbox::new();
    let mut ours = file.connect().await.unwrap();
    let mut tx = ours.begin().await.unwrap();
    outbox.enqueue(&mut tx, message("kept")).await.unwrap();
    let mut savepoint = tx.begin().await.unwrap();
    let undone = [message("undone"), message("undone")];
    outbox.enqueue_many(&mut savepoint, undone).await.unwrap();
    savepoint.rollback().await.unwrap();
    tx.commit().await.unwrap();
    let queues = texts(&mut ours, "select queue from outbox_message").await;
    assert_eq!(queues, ["kept"]);
}

#[tokio::test]
async fn connections_transactions_and_pools_of_the_caller_work() {
    let (file, _storage) = migrated().await;
    let outbox = SqliteOutbox::new();
    let pool = file.pool(2).await.unwrap();
    let mut pooled = pool.acquire().await.unwrap();
    outbox.enqueue(&mut pooled, message("a")).await.unwrap();
    drop(pooled);
    for begin in ["begin", "begin immediate", "begin exclusive"] {
        let mut tx = pool.begin_with(begin).await.unwrap();
        outbox.enqueue(&mut tx, message("a")).await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut plain = file.connect().await.unwrap();
    assert_eq!(number(&mut plain, MESSAGES).await, 4);
}

#[tokio::test]
async fn a_refused_message_leaves_the_transaction_usable() {
    let (file, _storage) = migrated().await;
    let outbox = SqliteOutbox::new().max_payload_bytes(100);
    let mut ours = file.connect().await.unwrap();
    let mut tx = ours.begin().await.unwrap();
    for draft in [
        message(""),
        message("q\0"),
        message("q").key("\0"),
        message("q").priority(4),
        Draft::bytes("q", "k", vec![0; 101]),
    ] {
        let error = outbox.enqueue(&mut tx, draft).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidMessage);
    }
    let one_bad = [message("q"), message("q").key("")];
    let error = outbox.enqueue_many(&mut tx, one_bad).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidMessage);
    let error = outbox.cancel_key(&mut tx, "q", "").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidMessage);
    outbox.enqueue(&mut tx, message("q")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(number(&mut ours, MESSAGES).await, 1);
}

#[tokio::test]
async fn every_field_and_byte_arrives_as_it_was_given() {
    let (file, storage) = migrated().await;
    let outbox = SqliteOutbox::new();
    let mut ours = file.connect().await.unwrap();
    let payloads = [
        vec![0, 1, 0xff, b'\\', 0],
        Vec::new(),
        br#"{"a": "\u0000", "b": 1}"#.to_vec(),
        (0..=u8::MAX).rev().collect(),
        vec![0; 4],
    ];
    let draft = |payload: &Vec<u8>| {
        Draft::bytes("mail", "raw", payload.clone())
            .header("a", "1\n\"\\ ä\u{1f980}")
            .header("b", "")
            .priority(-3)
            .group("g'")
            .tag("t \" t")
            .max_attempts(32_767)
            .content_type("application/x-test")
    };
    for (place, payload) in payloads.iter().enumerate() {
        let keyed = draft(payload).key(format!("one-{place}"));
        outbox.enqueue(&mut ours, keyed).await.unwrap();
    }
    let many = payloads.iter().enumerate();
    let many = many.map(|(place, payload)| draft(payload).key(format!("many-{place}")));
    outbox.enqueue_many(&mut ours, many).await.unwrap();

    let claimed = claim(&storage, &pending("mail", 20)).await.messages;
    assert_eq!(claimed.len(), 2 * payloads.len());
    for (place, got) in claimed.iter().enumerate() {
        let (how, place) = match place {
            0..5 => ("one", place),
            _ => ("many", place - 5),
        };
        assert_eq!(got.key, Some(format!("{how}-{place}")));
        assert_eq!(got.payload, payloads[place], "{how}, {place}");
        assert_eq!(got.kind.as_ref(), "raw");
        assert_eq!(got.content_type.as_ref(), "application/x-test");
        assert_eq!(got.headers.get("a"), Some("1\n\"\\ ä\u{1f980}"));
        assert_eq!(got.headers.get("b"), Some(""));
        assert_eq!(got.group.as_deref(), Some("g'"));
        assert_eq!(got.tag.as_deref(), Some("t \" t"));
        assert_eq!((got.attempt, got.max_attempts), (1, 32_767));
        let age = SystemTime::now().duration_since(got.created_at);
        assert!(age.unwrap_or_default() < Duration::from_secs(60));
        assert!(got.age < Duration::from_secs(60), "{:?}", got.age);
    }
}

#[tokio::test]
async fn many_keep_their_order_and_report_duplicates_in_place() {
    let (file, storage) = migrated().await;
    let outbox = SqliteOutbox::new();
    let mut ours = file.connect().await.unwrap();
    let live = message("q").key("live");
    assert!(
        outbox
            .enqueue(&mut ours, live)
            .await
            .unwrap()
            .id()
            .is_some()
    );
    let live = message("q").key("live");
    let again = outbox.enqueue(&mut ours, live).await.unwrap();
    assert_eq!(again, Enqueued::Duplicate);
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
    let stored = "select queue || coalesce(':' || key, '') from outbox_message where id > 1
        order by id";
    let stored = texts(&mut ours, stored).await;
    assert_eq!(stored, ["q", "q:new", "other:live", "q"]);
    let found: Vec<MessageId> = enqueued.iter().filter_map(|one| one.id()).collect();
    assert!(found.is_sorted(), "{found:?}");
    assert_eq!(
        ids(&claim(&storage, &pending("other", 9)).await),
        [found[2]]
    );
    let none: [Draft; 0] = [];
    assert_eq!(outbox.enqueue_many(&mut ours, none).await.unwrap(), []);
}

#[tokio::test]
async fn more_messages_than_one_statement_takes_are_all_written() {
    let (file, _storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    let mut tx = ours.begin().await.unwrap();
    let drafts = (0..12_001).map(|number| Draft::json("q", "k", &number));
    let enqueued = SqliteOutbox::new().enqueue_many(&mut tx, drafts).await;
    tx.commit().await.unwrap();
    let enqueued = enqueued.unwrap();
    assert_eq!(enqueued.len(), 12_001);
    assert!(enqueued.iter().all(|one| one.id().is_some()));
    // Each in its place: the payload is the number, and so is the id but for one.
    let in_place = "select count(*) from outbox_message
        where cast(cast(payload as text) as integer) = id - 1";
    assert_eq!(number(&mut ours, in_place).await, 12_001);
}

/// A statement sends once what all its messages share, and there are several statements: of the
/// first the last message is left out, in the second all is different, in the third there are no
/// keys.
#[tokio::test]
async fn what_messages_share_and_what_they_do_not_stays_with_each() {
    let (file, _storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    execute(
        &mut ours,
        "insert into outbox_message (queue, kind, payload, content_type, key)
         values ('q', 'k', x'', 't', 'live-499')",
    )
    .await;
    let draft = |number: i16| {
        let draft = Draft::json("q", "k", &number);
        match number {
            0..500 => draft.key(format!("live-{number}")).group("g").priority(-2),
            500..1_000 => Draft::json(format!("q{number}"), format!("k{number}"), &number)
                .key(format!("key{number}"))
                .content_type(format!("t{number}"))
                .header("number", number.to_string())
                .group(format!("g{number}"))
                .tag(format!("tag{number}"))
                .priority(number % 7 - 3)
                .max_attempts(u16::try_from(number).unwrap())
                .at(SystemTime::UNIX_EPOCH + Duration::from_millis(4_102_444_800_000)),
            _ => draft.tag("t"),
        }
    };
    let mut tx = ours.begin().await.unwrap();
    let drafts = (0..1_100).map(draft);
    let enqueued = SqliteOutbox::new().enqueue_many(&mut tx, drafts).await;
    tx.commit().await.unwrap();
    let enqueued = enqueued.unwrap();
    for (n, one) in enqueued.iter().enumerate() {
        assert_eq!(one.id().is_none(), n == 499, "{n}");
        let Some(MessageId(id)) = one.id() else {
            continue;
        };
        let own = "kind = 'k' || n and content_type = 't' || n and headers ->> 'number' = '' || n
            and group_key = 'g' || n and tag = 'tag' || n and priority = n % 7 - 3
            and max_attempts = n and next_attempt_at = 4102444800000";
        let is = match n {
            0..500 => "queue = 'q' and key = 'live-' || n and priority = -2 and group_key = 'g'",
            500..1_000 => &format!("queue = 'q' || n and key = 'key' || n and {own}"),
            _ => "queue = 'q' and key is null and tag = 't' and group_key is null",
        };
        let found = format!(
            "select count(*) from outbox_message, (select {n} as n)
             where id = {id} and cast(payload as text) = '' || n and {is}"
        );
        assert_eq!(number(&mut ours, &found).await, 1, "{n}");
    }
}

#[tokio::test]
async fn delays_are_added_by_sqlite_and_instants_are_taken_literally() {
    let (file, storage) = migrated().await;
    let outbox = SqliteOutbox::new();
    let mut ours = file.connect().await.unwrap();
    let epoch = SystemTime::UNIX_EPOCH;
    let drafts = || {
        [
            message("q").after(Duration::from_secs(3600)),
            message("q").at(epoch + Duration::from_millis(4_102_444_800_250)),
            // As fine as the clock is: never before the instant.
            message("q").at(epoch + Duration::from_micros(4_102_444_800_250_001)),
            message("past").at(epoch - Duration::from_secs(1)),
        ]
    };
    for draft in drafts() {
        outbox.enqueue(&mut ours, draft).await.unwrap();
    }
    outbox.enqueue_many(&mut ours, drafts()).await.unwrap();
    for (due, expected) in [
        (format!("between {NOW} + 3540000 and {NOW} + 3600000"), 2),
        ("= 4102444800250".to_owned(), 2),
        ("= 4102444800251".to_owned(), 2),
        ("= -1000".to_owned(), 2),
    ] {
        let sql = format!("{MESSAGES} where next_attempt_at {due}");
        assert_eq!(number(&mut ours, &sql).await, expected, "{due}");
    }
    let later = claim(&storage, &pending("q", 9)).await;
    assert_eq!(ids(&later), []);
    let due = later.next_due.unwrap();
    assert!(due > Duration::from_secs(3000) && due <= Duration::from_secs(3600));
    assert_eq!(claim(&storage, &pending("past", 9)).await.messages.len(), 2);
}

#[tokio::test]
async fn the_clock_is_exact_to_sqlites_own_millisecond() {
    let (file, _storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    // The default is the expression of every statement, at other times than the present one too.
    let default = "select dflt_value from pragma_table_info('outbox_message')
        where name = 'created_at'";
    let clock = texts(&mut ours, default).await.remove(0);
    let sql = format!(
        "with recursive moment (millis) as (
             values (0) union all select millis + 86413577 from moment limit 60000
         )
         select count(*) from moment
         where {} <> millis",
        clock.replace("'now'", "millis / 1000.0, 'unixepoch', 'subsec'")
    );
    assert_eq!(number(&mut ours, &sql).await, 0);
    let sql = format!("select {clock} - {NOW}");
    assert_eq!(number(&mut ours, &sql).await, 0);
}

#[tokio::test]
async fn cancelling_refuses_what_is_held_and_says_what_it_found() {
    let (file, storage) = migrated().await;
    let outbox = SqliteOutbox::new();
    let mut ours = file.connect().await.unwrap();
    let enqueued = outbox.enqueue(&mut ours, message("q").key("k")).await;
    let id = enqueued.unwrap().id().unwrap();
    let mut tx = ours.begin().await.unwrap();
    assert_eq!(outbox.cancel(&mut tx, id).await.unwrap(), Cancel::Cancelled);
    assert_eq!(outbox.cancel(&mut tx, id).await.unwrap(), Cancel::NotFound);
    tx.rollback().await.unwrap();

    let by_key = async |connection: &mut _, queue| {
        let cancelled = outbox.cancel_key(connection, queue, "k").await;
        cancelled.unwrap()
    };
    assert_eq!(by_key(&mut ours, "other").await, Cancel::NotFound);
    claim(&storage, &pending("q", 1)).await;
    assert_eq!(outbox.cancel(&mut ours, id).await.unwrap(), Cancel::Leased);
    assert_eq!(by_key(&mut ours, "q").await, Cancel::Leased);
    expire(&mut ours).await;
    assert_eq!(by_key(&mut ours, "q").await, Cancel::Cancelled);
    assert_eq!(number(&mut ours, MESSAGES).await, 0);
}

#[tokio::test]
async fn an_id_is_never_used_again() {
    let (file, storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    let outbox = storage.outbox();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let enqueued = outbox.enqueue(&mut ours, message("q")).await.unwrap();
        seen.extend(enqueued.id());
        let claimed = claim(&storage, &pending("q", 1)).await;
        let done = settlements(&claimed, &Verdict::Done);
        assert_eq!(storage.settle(&done).await.unwrap().written.len(), 1);
    }
    assert_eq!(seen, [MessageId(1), MessageId(2), MessageId(3)]);
}

#[tokio::test]
async fn the_database_refuses_what_others_write_wrongly() {
    let (file, _storage) = migrated().await;
    let mut ours = file.connect().await.unwrap();
    for (columns, values) in [
        ("acquired_token", "zeroblob(16)"),
        ("lease_expires_at", "1"),
        ("acquired_at, lease_expires_at", "1, 1"),
        (
            "acquired_token, acquired_at, lease_expires_at",
            "zeroblob(15), 1, 1",
        ),
        ("priority", "4"),
        ("attempts", "-1"),
        ("attempts", "32768"),
        ("max_attempts", "0"),
        ("deliveries", "2147483648"),
        ("lease_losses", "-1"),
        ("created_at", "'yesterday'"),
        ("headers", "x'00'"),
    ] {
        let sql = format!(
            "insert into outbox_message (queue, kind, payload, content_type, {columns})
             values ('q', 'k', x'', 't', {values})"
        );
        let refused = sqlx::query(AssertSqlSafe(sql)).execute(&mut ours).await;
        let error = refused.expect_err(columns).into_database_error().unwrap();
        let code: i32 = error.code().unwrap().parse().unwrap();
        assert_eq!(code & 0xff, 19, "{columns}: {error}");
    }
    let by_hand = "insert into outbox_message (queue, kind, payload, content_type)
        values ('q', 'k', x'', 't')";
    execute(&mut ours, by_hand).await;
    let due =
        format!("{MESSAGES} where next_attempt_at <= {NOW} and next_attempt_at > {NOW} - 60000");
    assert_eq!(number(&mut ours, &due).await, 1);
}

#[tokio::test]
async fn a_file_without_our_tables_is_named_as_such() {
    let file = file();
    let mut ours = file.connect().await.unwrap();
    let enqueued = SqliteOutbox::new().enqueue(&mut ours, message("q")).await;
    let error = enqueued.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unmigrated);
    assert!(
        error.to_string().contains("SqliteStorage::migrate()"),
        "{error}"
    );
}
