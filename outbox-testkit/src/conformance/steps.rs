//! The steps properties are made of: write a message, claim it, settle it, and read the answer.

use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::join_all;
use outbox_core::{
    Claim, ClaimRequest, Claimed, DeadReason, Error, MessageId, NewMessage, QueueLease, Renewal,
    Renewed, Settlement, Source, Verdict,
};

use super::{DeadLetterState, MessageState, Subject};

/// The queue of properties that need only one.
pub(super) const QUEUE: &str = "mail";
/// The lease of properties that do not look at it.
pub(super) const LEASE_TTL: Duration = Duration::from_secs(600);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// How often a step asks again: more often than a storage that works can need.
const ROUNDS: usize = 20;

pub(super) fn message(payload: impl Into<Vec<u8>>) -> NewMessage {
    message_to(QUEUE, payload)
}

pub(super) fn message_to(queue: &'static str, payload: impl Into<Vec<u8>>) -> NewMessage {
    NewMessage::new(queue, "welcome", payload)
}

pub(super) fn with(mut message: NewMessage, change: impl FnOnce(&mut NewMessage)) -> NewMessage {
    change(&mut message);
    message
}

pub(super) async fn try_enqueue(
    subject: &dyn Subject,
    messages: Vec<NewMessage>,
) -> Vec<Option<MessageId>> {
    let written = subject.storage().enqueue(messages).await;
    written.expect("enqueue succeeds")
}

/// Enqueues messages of which none is deduplicated.
pub(super) async fn enqueue(subject: &dyn Subject, messages: Vec<NewMessage>) -> Vec<MessageId> {
    let written = try_enqueue(subject, messages).await;
    let id = |id: Option<MessageId>| id.expect("there is no message of this key");
    written.into_iter().map(id).collect()
}

/// Enqueues `count` messages whose payload is their number.
pub(super) async fn enqueue_many(subject: &dyn Subject, count: u8) -> Vec<MessageId> {
    enqueue(subject, (0..count).map(|n| message([n])).collect()).await
}

pub(super) fn request(queues: &[&str], limit: usize, source: Source) -> ClaimRequest {
    let lease = |queue: &&str| QueueLease::new(*queue, LEASE_TTL);
    ClaimRequest::new(queues.iter().map(lease).collect(), limit, source)
}

pub(super) async fn claim(subject: &dyn Subject, request: &ClaimRequest) -> Claim {
    let claim = subject.storage().claim(request).await;
    let claim = claim.expect("claim succeeds");
    assert!(claim.messages.len() <= request.limit, "more than the limit");
    for claimed in &claim.messages {
        assert_eq!(claimed.token, request.token, "the token of the request");
    }
    claim
}

pub(super) async fn claim_pending(subject: &dyn Subject, limit: usize) -> Vec<Claimed> {
    let request = request(&[QUEUE], limit, Source::Pending);
    claim(subject, &request).await.messages
}

/// Makes `count` claims at the same time, each a task of the runtime: where that has several threads,
/// they meet as those of several processes do.
pub(super) async fn claim_side_by_side(
    subject: &dyn Subject,
    count: usize,
    limit: usize,
    source: Source,
) -> Vec<Claim> {
    let runtime = subject.runtime();
    let call = |_| {
        let (storage, request) = (subject.storage(), request(&[QUEUE], limit, source));
        let (sender, answer) = oneshot::channel();
        runtime.spawn(Box::pin(async move {
            // Nobody hears the answer if the property has failed.
            let _ = sender.send(storage.claim(&request).await);
        }));
        answer
    };
    let answers = join_all((0..count).map(call)).await;
    let claim = |answer: Result<Result<Claim, Error>, _>| {
        let claim = answer.expect("a claim does not panic");
        let claim = claim.expect("claim succeeds");
        assert!(claim.messages.len() <= limit, "more than the limit");
        claim
    };
    answers.into_iter().map(claim).collect()
}

pub(super) async fn claim_expired(subject: &dyn Subject, limit: usize) -> Claim {
    claim(subject, &request(&[QUEUE], limit, Source::Expired)).await
}

/// Claims the only available message.
pub(super) async fn claim_one(subject: &dyn Subject) -> Claimed {
    only(claim_pending(subject, 10).await)
}

/// A message with something in every field.
pub(super) fn full() -> NewMessage {
    with(message(*b"full"), |new| {
        new.content_type = "text/plain".into();
        new.headers.0.insert("trace".into(), "00-4bf9".into());
        new.key = Some("o-1".into());
        new.group = Some("customer-7".into());
        new.tag = Some("tenant".into());
        new.max_attempts = 7;
    })
}

/// Enqueues such a message, and claims it.
pub(super) async fn full_one_held(subject: &dyn Subject) -> Claimed {
    enqueue(subject, vec![full()]).await;
    claim_one(subject).await
}

/// Asserts that a dead letter says which message it was.
#[track_caller]
pub(super) fn assert_same_letter(letter: &DeadLetterState, message: &Claimed) {
    let place = (letter.id, &*letter.queue, &*letter.kind);
    assert_eq!(place, (message.id, &*message.queue, &*message.kind));
    assert_eq!(letter.headers, message.headers);
    let references = (&letter.key, &letter.group, &letter.tag);
    assert_eq!(references, (&message.key, &message.group, &message.tag));
    assert_eq!(letter.attempts, message.attempt);
}

/// Asserts that two deliveries carry the same message.
#[track_caller]
pub(super) fn assert_same_message(later: &Claimed, earlier: &Claimed) {
    let content = |claimed: &Claimed| {
        let Claimed {
            id,
            queue,
            kind,
            payload,
            content_type,
            headers,
            max_attempts,
            key,
            group,
            tag,
            created_at,
            ..
        } = claimed.clone();
        (
            (id, queue, kind, payload, content_type, headers),
            (max_attempts, key, group, tag, created_at),
        )
    };
    assert_eq!(content(later), content(earlier));
}

/// Ends all leases, and claims the only message that had one.
pub(super) async fn reclaim_one(subject: &dyn Subject) -> Claimed {
    subject.expire_leases().await;
    only(claim_expired(subject, 10).await.messages)
}

/// Enqueues a message and claims it.
pub(super) async fn one_held(subject: &dyn Subject) -> Claimed {
    enqueue(subject, vec![message(*b"one")]).await;
    claim_one(subject).await
}

pub(super) fn only<T: std::fmt::Debug>(mut found: Vec<T>) -> T {
    assert_eq!(found.len(), 1, "exactly one: {found:?}");
    found.remove(0)
}

pub(super) fn ids(messages: &[Claimed]) -> Vec<MessageId> {
    messages.iter().map(|claimed| claimed.id).collect()
}

pub(super) fn sorted(mut ids: Vec<MessageId>) -> Vec<MessageId> {
    ids.sort_unstable();
    ids
}

pub(super) fn settlement(claimed: &Claimed, verdict: Verdict) -> Settlement {
    Settlement::new(claimed.held(), verdict)
}

/// Settles, asking again for what is busy, and returns the survivors by id.
pub(super) async fn settle_all(
    subject: &dyn Subject,
    settlements: &[Settlement],
) -> Vec<MessageId> {
    let mut left = settlements.to_vec();
    let mut written = Vec::new();
    for _ in 0..ROUNDS {
        let settled = subject.storage().settle(&left).await;
        let settled = settled.expect("settle succeeds");
        written.extend(settled.written);
        left.retain(|settlement| settled.busy.contains(&settlement.id));
        if left.is_empty() {
            return sorted(written);
        }
    }
    panic!("nobody keeps messages locked, and these stay busy: {left:?}");
}

/// Settles one message; says whether the token still held.
pub(super) async fn settle(subject: &dyn Subject, claimed: &Claimed, verdict: Verdict) -> bool {
    let survivors = settle_all(subject, &[settlement(claimed, verdict)]).await;
    assert!(survivors.is_empty() || survivors == [claimed.id]);
    !survivors.is_empty()
}

/// Renews, and returns survivors and losses by id.
pub(super) async fn renew(
    subject: &dyn Subject,
    messages: &[&Claimed],
    lease_ttl: Duration,
) -> (Vec<MessageId>, Vec<MessageId>) {
    let renewal = |claimed: &&Claimed| Renewal::new(claimed.held(), lease_ttl);
    let renewals: Vec<_> = messages.iter().map(renewal).collect();
    let renewed = subject.storage().renew(&renewals).await;
    let Renewed { renewed, lost, .. } = renewed.expect("renew succeeds");
    (sorted(renewed), sorted(lost))
}

/// The state of a message that must be live.
pub(super) async fn state(subject: &dyn Subject, id: MessageId) -> MessageState {
    let state = subject.state(id).await;
    state.unwrap_or_else(|| panic!("message {id} is not live"))
}

pub(super) async fn is_gone(subject: &dyn Subject, id: MessageId) -> bool {
    subject.state(id).await.is_none()
}

pub(super) fn retry(after: Duration) -> Verdict {
    Verdict::Retry {
        after,
        error: "refused".to_owned(),
    }
}

pub(super) fn dead(reason: DeadReason, error: &str) -> Verdict {
    Verdict::Dead {
        reason,
        error: error.to_owned(),
    }
}

/// One verdict of each kind.
pub(super) fn every_verdict() -> Vec<Verdict> {
    vec![
        Verdict::Done,
        Verdict::Discard,
        retry(HOUR),
        Verdict::Snooze { after: HOUR },
        Verdict::Release,
        dead(DeadReason::Rejected, "rejected"),
    ]
}

/// Asserts a time that was `expected` at most a minute ago.
#[track_caller]
pub(super) fn assert_about(actual: Option<Duration>, expected: Duration) {
    let actual = actual.expect("a time is given");
    // Storages may round to a coarser unit than ours.
    let most = expected + Duration::from_millis(2);
    let least = expected.saturating_sub(Duration::from_secs(60));
    assert!(
        (least..=most).contains(&actual),
        "{actual:?} is not about {expected:?}"
    );
}
