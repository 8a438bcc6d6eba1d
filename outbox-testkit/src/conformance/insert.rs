//! `INSERT`: what is enqueued is what is delivered, and keys are unique among live messages.

use std::time::{Duration, SystemTime};

use outbox_core::{
    DeadReason, Draft, Due, MAX_DELAY, MAX_HEADER_BYTES, MAX_NAME_BYTES, Source, Verdict,
};

use super::Subject;
use super::steps::{
    HOUR, QUEUE, assert_about, claim, claim_expired, claim_one, claim_pending, dead, enqueue,
    enqueue_many, ids, message, message_to, only, request, settle, state, try_enqueue, with,
};

/// INSERT-01: ids are positive and grow in the order of the messages given, within a call and
/// from one call to the next.
pub async fn ids_grow_in_the_order_of_enqueue(subject: &dyn Subject) {
    let mut written = enqueue_many(subject, 20).await;
    written.extend(enqueue_many(subject, 20).await);
    assert!(written[0].0 > 0);
    assert!(written.is_sorted_by(|former, later| former < later));
}

/// INSERT-02: payloads come back byte for byte: empty, with NUL, not UTF-8, and 1 MiB long.
pub async fn payloads_come_back_byte_for_byte(subject: &dyn Subject) {
    let payloads = [
        Vec::new(),
        b"a\0b\0".to_vec(),
        vec![0xff, 0xfe, 0xc3, 0x28, 0x80],
        (0..=u8::MAX).collect(),
        br#"{"b": 1, "a": "\u0000", "b": 2}"#.to_vec(),
        (0..1_048_576_u32).map(|n| (n % 251) as u8).collect(),
    ];
    let messages = payloads.iter().cloned().map(message).collect();
    let written = enqueue(subject, messages).await;
    let claimed = claim_pending(subject, 10).await;
    assert_eq!(ids(&claimed), written);
    for (claimed, payload) in claimed.iter().zip(&payloads) {
        assert!(claimed.payload == *payload, "{} bytes", payload.len());
    }
}

/// INSERT-03: all other fields of a message come back as they were given, be they as long as a
/// producer lets them be.
pub async fn every_field_comes_back(subject: &dyn Subject) {
    let usual = with(message(*b"x"), |new| {
        new.kind = "order.placed".into();
        new.content_type = "application/x-thing; v=1".into();
        new.headers.0.insert("empty".into(), String::new());
        new.headers
            .0
            .insert("Ünïcode \"q\"".into(), "a\\b\n'".into());
        new.key = Some("o-1".into());
        new.group = Some("customer-7".into());
        new.tag = Some("tenant".into());
        new.max_attempts = 32_767;
    });
    let name = |letter: &str| letter.repeat(MAX_NAME_BYTES);
    let longest = with(message(*b"x"), |new| {
        new.queue = name("q").into();
        new.kind = name("k").into();
        new.content_type = name("c").into();
        let value = "v".repeat(MAX_HEADER_BYTES - MAX_NAME_BYTES);
        new.headers.0.insert(name("h"), value);
        new.key = Some(name("i"));
        new.group = Some(name("g"));
        new.tag = Some(name("t"));
        new.max_attempts = 1;
    });
    for new in [usual, longest] {
        enqueue(subject, vec![new.clone()]).await;
        let claimed = claim(subject, &request(&[&new.queue], 10, Source::Pending)).await;
        let claimed = only(claimed.messages);
        assert_eq!(*claimed.queue, *new.queue);
        assert_eq!(*claimed.kind, *new.kind);
        assert_eq!(*claimed.content_type, *new.content_type);
        assert_eq!(claimed.headers, new.headers);
        assert_eq!(claimed.key, new.key);
        assert_eq!(claimed.group, new.group);
        assert_eq!(claimed.tag, new.tag);
        assert_eq!(claimed.max_attempts, new.max_attempts);
    }
}

/// INSERT-04: a message without key, group, tag and headers comes back without them, and a fresh
/// one has neither attempts nor losses nor deliveries nor a lease.
pub async fn a_fresh_message_has_no_past(subject: &dyn Subject) {
    let written = enqueue(subject, vec![message(*b"x")]).await;
    let fresh = state(subject, written[0]).await;
    assert_eq!(
        (fresh.attempts, fresh.lease_losses, fresh.deliveries),
        (0, 0, 0)
    );
    assert!(!fresh.is_held());
    assert_eq!((fresh.due_in, fresh.last_error), (Duration::ZERO, None));
    let claimed = claim_one(subject).await;
    assert_eq!(
        (claimed.key, claimed.group, claimed.tag),
        (None, None, None)
    );
    assert!(claimed.headers.is_empty());
    assert!(claimed.age < Duration::from_secs(60), "{:?}", claimed.age);
}

/// INSERT-05: while a message of a key waits, a second one is not written; the first stays as it is.
pub async fn a_key_is_unique_while_its_message_waits(subject: &dyn Subject) {
    let keyed = |payload: &[u8]| with(message(payload), |new| new.key = Some("k".into()));
    let first = try_enqueue(subject, vec![keyed(b"first")]).await;
    assert!(first[0].is_some());
    let mut second = vec![message(*b"before"), keyed(b"second"), message(*b"after")];
    second[1].priority = -3;
    let second = try_enqueue(subject, second).await;
    assert!(second[0].is_some() && second[1].is_none() && second[2].is_some());
    let claimed = claim_pending(subject, 10).await;
    let payloads: Vec<_> = claimed.iter().map(|claimed| &*claimed.payload).collect();
    assert_eq!(payloads, [&b"first"[..], b"before", b"after"]);
}

/// INSERT-06: a key stays taken while its message is held, even under an expired lease, and while
/// it waits for a retry; it is free after the message is done, discarded or a dead letter, be that
/// by its outcome or by the loss of its lease.
pub async fn a_key_is_free_when_its_message_has_ended(subject: &dyn Subject) {
    let keyed = || vec![with(message(*b"x"), |new| new.key = Some("k".into()))];
    let ends = [
        Verdict::Done,
        Verdict::Discard,
        dead(DeadReason::Rejected, "no"),
    ];
    for end in ends {
        assert!(try_enqueue(subject, keyed()).await[0].is_some());
        let held = claim_one(subject).await;
        assert_eq!(try_enqueue(subject, keyed()).await, [None]);
        subject.expire_leases().await;
        assert_eq!(try_enqueue(subject, keyed()).await, [None]);
        assert!(settle(subject, &held, Verdict::Snooze { after: HOUR }).await);
        assert_eq!(try_enqueue(subject, keyed()).await, [None]);
        subject.make_due().await;
        let held = claim_one(subject).await;
        assert!(settle(subject, &held, end).await);
    }
    let mut once = keyed();
    once[0].max_attempts = 1;
    assert!(try_enqueue(subject, once).await[0].is_some());
    claim_one(subject).await;
    subject.expire_leases().await;
    assert_eq!(claim_expired(subject, 10).await.dead.len(), 1);
    assert!(try_enqueue(subject, keyed()).await[0].is_some());
}

/// INSERT-07: the same key in two queues is two messages.
pub async fn a_key_belongs_to_its_queue(subject: &dyn Subject) {
    let keyed = |queue| with(message_to(queue, *b"x"), |new| new.key = Some("k".into()));
    let written = try_enqueue(subject, vec![keyed("mail"), keyed("orders")]).await;
    assert!(written.iter().all(Option::is_some));
}

/// INSERT-08: of two messages of one key in one call, the first is written.
pub async fn the_first_of_a_key_wins_within_a_call(subject: &dyn Subject) {
    let keyed = |payload: &[u8]| with(message(payload), |new| new.key = Some("k".into()));
    let written = try_enqueue(subject, vec![keyed(b"first"), keyed(b"second")]).await;
    assert!(written[0].is_some());
    assert_eq!(written[1], None);
    assert_eq!(claim_one(subject).await.payload, b"first");
}

/// INSERT-09: writing nothing is allowed and answers nothing.
pub async fn an_empty_enqueue_is_nothing(subject: &dyn Subject) {
    assert_eq!(try_enqueue(subject, Vec::new()).await, []);
    assert!(claim_pending(subject, 10).await.is_empty());
}

/// INSERT-10: a delay counts by the storage's clock from the insert, be it the longest; an instant
/// in the past is due at once, and one in the future when it comes.
pub async fn due_times_are_kept(subject: &dyn Subject) {
    let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let written = enqueue(
        subject,
        vec![
            with(message(*b"delayed"), |new| new.due = Due::After(HOUR)),
            with(message(*b"past"), |new| new.due = Due::At(past)),
        ],
    )
    .await;
    assert_about(Some(state(subject, written[0]).await.due_in), HOUR);
    let claimed = claim_one(subject).await;
    assert_eq!(claimed.payload, b"past");
    subject.make_due().await;
    assert_eq!(claim_one(subject).await.payload, b"delayed");

    let instant = claimed.created_at + HOUR * 2;
    let future = with(message(*b"future"), |new| new.due = Due::At(instant));
    let longest = with(message(*b"longest"), |new| new.due = Due::After(MAX_DELAY));
    let written = enqueue(subject, vec![future, longest]).await;
    assert_about(Some(state(subject, written[0]).await.due_in), HOUR * 2);
    assert_about(Some(state(subject, written[1]).await.due_in), MAX_DELAY);
}

/// INSERT-11: queues whose names differ only in case, in trailing blanks or by a wildcard are
/// different queues.
pub async fn queue_names_are_compared_exactly(subject: &dyn Subject) {
    let names = ["mail", "MAIL", "mail ", "mai%", "mai_", "'; --"];
    for name in names {
        enqueue(subject, vec![message_to(name, name)]).await;
    }
    for name in names {
        let request = request(&[name], 10, Source::Pending);
        let claimed = only(claim(subject, &request).await.messages);
        assert_eq!(claimed.payload, name.as_bytes());
        assert_eq!(&*claimed.queue, name);
    }
}

/// INSERT-12: a message that was enqueued in the caller's transaction exists if it commits, and
/// leaves nothing behind, not even its key, if it is rolled back.
pub async fn a_message_exists_only_if_its_transaction_commits(subject: &dyn Subject) {
    let draft = |payload: &'static [u8]| Draft::bytes(QUEUE, "welcome", payload).key("k");
    let unkeyed = || Draft::bytes(QUEUE, "welcome", *b"unkeyed");
    let lost = vec![draft(b"rolled back"), unkeyed()];
    subject.enqueue_in_transaction(lost, false).await;
    assert!(claim_pending(subject, 10).await.is_empty());
    let kept = vec![draft(b"committed"), unkeyed()];
    subject.enqueue_in_transaction(kept, true).await;
    let claimed = claim_pending(subject, 10).await;
    let payloads: Vec<_> = claimed.iter().map(|claimed| &*claimed.payload).collect();
    assert_eq!(payloads, [&b"committed"[..], b"unkeyed"]);
}

/// INSERT-13: keys that differ only in case, in trailing blanks or by a wildcard are different keys.
pub async fn keys_are_compared_exactly(subject: &dyn Subject) {
    let keyed = |key: &str| with(message(*b"x"), |new| new.key = Some(key.into()));
    let keys = ["key", "KEY", "key ", "ke%", "ke_", "'; --"];
    enqueue(subject, keys.map(keyed).to_vec()).await;
    let claimed = claim_pending(subject, 10).await;
    let kept: Vec<_> = claimed.iter().map(|one| one.key.as_deref()).collect();
    assert_eq!(kept, keys.map(Some));
}
