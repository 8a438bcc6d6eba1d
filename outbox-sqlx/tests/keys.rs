//! Keys of several messages in one call, and what others do to the same keys meanwhile.
#![allow(clippy::unwrap_used)]

mod support;

use outbox_core::{Draft, Storage};
use outbox_sqlx::{Enqueued, PgOutbox};
use support::{TTL, database, execute, message, texts, until_waiting};

fn keyed(key: &'static str, payload: u8) -> Draft {
    Draft::json("q", "test", &payload).key(key)
}

/// What is stored, as `key:payload`, by id.
const STORED: &str = "select concat(key, ':', convert_from(payload, 'UTF8'))
    from outbox.message order by id";

#[tokio::test]
async fn a_key_that_is_freed_within_a_call_is_answered_as_it_is_stored() {
    for (end, expected) in [
        ("commit", [false, false, false, true]),
        ("rollback", [false, true, false, true]),
    ] {
        let database = database().await;
        database.storage().await;
        let (mut other, mut observer) = (database.connect().await, database.connect().await);
        let outbox = PgOutbox::new();
        let live = outbox.enqueue(&mut observer, keyed("a", 0)).await.unwrap();
        execute(&mut other, "begin").await;
        outbox.enqueue(&mut other, keyed("b", 9)).await.unwrap();
        let mut ours = database.connect().await;
        let call = tokio::spawn(async move {
            let drafts = [keyed("a", 1), keyed("b", 2), keyed("a", 3), message("q")];
            PgOutbox::new().enqueue_many(&mut ours, drafts).await
        });
        // The first key was found taken, and the second is waited for.
        until_waiting(&mut observer, 1).await;
        outbox
            .cancel(&mut observer, live.id().unwrap())
            .await
            .unwrap();
        execute(&mut other, end).await;
        let written: Vec<bool> = call
            .await
            .unwrap()
            .unwrap()
            .iter()
            .map(|enqueued| enqueued.id().is_some())
            .collect();
        assert_eq!(written, expected, "{end}");
        let stored = texts(&mut observer, STORED).await;
        let second = if end == "commit" { "b:9" } else { "b:2" };
        assert_eq!(stored, [second, ":1"], "{end}");
    }
}

#[tokio::test]
async fn repeated_keys_between_messages_without_one_are_told_apart() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    let outbox = PgOutbox::new();
    outbox.enqueue(&mut ours, keyed("live", 0)).await.unwrap();
    let drafts = || {
        [
            message("q"),
            keyed("live", 1),
            keyed("a", 2),
            message("q"),
            keyed("a", 3),
            keyed("a", 4).queue("other"),
            message("other"),
            keyed("live", 5),
            keyed("a", 6),
            keyed("b", 7),
            message("q"),
        ]
    };
    let expected = [
        true, false, true, true, false, true, true, false, false, true, true,
    ];
    let enqueued = outbox.enqueue_many(&mut ours, drafts()).await.unwrap();
    let written: Vec<bool> = enqueued.iter().map(|one| one.id().is_some()).collect();
    assert_eq!(written, expected);
    let stored = texts(&mut ours, STORED).await;
    assert_eq!(
        stored,
        ["live:0", ":1", "a:2", ":1", "a:4", ":1", "b:7", ":1"]
    );
    // Each id is that of its own message.
    for (place, text) in [(0, ":1"), (2, "a:2"), (5, "a:4"), (6, ":1"), (9, "b:7")] {
        let Enqueued::New(id) = enqueued[place] else {
            panic!("message {place} is written")
        };
        let one = format!(
            "{} offset 0",
            STORED.replace("order by", &format!("where id = {id} order by"))
        );
        assert_eq!(texts(&mut ours, &one).await, [text], "message {place}");
    }
    execute(&mut ours, "truncate outbox.message").await;
    outbox.enqueue(&mut ours, keyed("live", 0)).await.unwrap();
    let checked = drafts().map(|draft| draft.check(100).unwrap());
    let ids = storage.enqueue(checked.to_vec()).await.unwrap();
    let written: Vec<bool> = ids.iter().map(Option::is_some).collect();
    assert_eq!(written, expected);
}

#[tokio::test]
async fn a_duplicate_leaves_the_live_message_as_it_is() {
    let database = database().await;
    let storage = database.storage().await;
    let mut ours = database.connect().await;
    let outbox = PgOutbox::new();
    let second = || {
        let draft = keyed("a", 2)
            .priority(-3)
            .tag("t")
            .group("g")
            .header("h", "v");
        draft.max_attempts(3).after(TTL).content_type("text/plain")
    };
    outbox.enqueue(&mut ours, keyed("a", 1)).await.unwrap();
    let all = "select m::text from outbox.message as m";
    let before = texts(&mut ours, all).await;
    let duplicate = outbox.enqueue(&mut ours, second()).await.unwrap();
    assert_eq!(duplicate, Enqueued::Duplicate);
    let many = outbox.enqueue_many(&mut ours, [second()]).await.unwrap();
    assert_eq!(many, [Enqueued::Duplicate]);
    let checked = second().check(100).unwrap();
    assert_eq!(storage.enqueue(vec![checked]).await.unwrap(), [None]);
    assert_eq!(texts(&mut ours, all).await, before);
}
