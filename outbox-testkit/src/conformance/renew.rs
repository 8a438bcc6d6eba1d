//! `RENEW`: a holder keeps its lease, and only a holder.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::{mpsc, oneshot};
use futures_util::StreamExt;
use outbox_core::{Error, Renewal, Renewed, Source, Storage, Verdict, timeout};

use super::Subject;
use super::steps::{
    HOUR, LEASE_TTL, QUEUE, assert_about, claim_expired, claim_pending, enqueue_many, ids, is_gone,
    one_held, renew, request, settle, settlement, sorted, state,
};
use crate::drops::poll_up_to;

/// How long a renewal may take that nothing holds up.
const PATIENCE: Duration = Duration::from_secs(60);

/// RENEW-01: a renew sets the end of the lease to the present time of the storage plus the ttl,
/// and changes nothing else.
pub async fn a_renew_prolongs_the_lease(subject: &dyn Subject) {
    let held = one_held(subject).await;
    let before = state(subject, held.id).await;
    let answer = renew(subject, &[&held], LEASE_TTL * 3).await;
    assert_eq!(answer, (vec![held.id], vec![]));
    let mut after = state(subject, held.id).await;
    assert_about(after.lease_left, LEASE_TTL * 3);
    after.lease_left = before.lease_left;
    assert_eq!(after, before);
}

/// RENEW-02: a renew never shortens a lease.
pub async fn a_renew_never_shortens_the_lease(subject: &dyn Subject) {
    let held = one_held(subject).await;
    let answer = renew(subject, &[&held], Duration::from_secs(1)).await;
    assert_eq!(answer, (vec![held.id], vec![]));
    assert_about(state(subject, held.id).await.lease_left, LEASE_TTL);
}

/// RENEW-03: a renew never brings a settled message back.
pub async fn a_renew_never_brings_a_message_back(subject: &dyn Subject) {
    let done = one_held(subject).await;
    assert!(settle(subject, &done, Verdict::Done).await);
    let answer = renew(subject, &[&done], LEASE_TTL).await;
    assert_eq!(answer, (vec![], vec![done.id]));
    assert!(is_gone(subject, done.id).await);

    let waiting = one_held(subject).await;
    assert!(settle(subject, &waiting, Verdict::Snooze { after: HOUR }).await);
    let answer = renew(subject, &[&waiting], LEASE_TTL).await;
    assert_eq!(answer, (vec![], vec![waiting.id]));
    assert!(!state(subject, waiting.id).await.is_held());
}

/// RENEW-04: of several renewals those that lost are told apart from those that hold.
pub async fn a_renew_tells_survivors_from_losses(subject: &dyn Subject) {
    enqueue_many(subject, 5).await;
    let held = claim_pending(subject, 5).await;
    assert!(settle(subject, &held[0], Verdict::Done).await);
    assert!(settle(subject, &held[3], Verdict::Release).await);
    let all: Vec<_> = held.iter().rev().collect();
    let (renewed, lost) = renew(subject, &all, LEASE_TTL * 2).await;
    assert_eq!(renewed, [held[1].id, held[2].id, held[4].id]);
    assert_eq!(lost, [held[0].id, held[3].id]);
    for id in renewed {
        assert_about(state(subject, id).await.lease_left, LEASE_TTL * 2);
    }
}

/// RENEW-05: after the end of the lease and before a takeover a renew is accepted, and then the
/// message cannot be taken over.
pub async fn a_late_renew_is_accepted_until_the_takeover(subject: &dyn Subject) {
    let held = one_held(subject).await;
    subject.expire_leases().await;
    let answer = renew(subject, &[&held], LEASE_TTL).await;
    assert_eq!(answer, (vec![held.id], vec![]));
    assert!(claim_expired(subject, 10).await.messages.is_empty());
    let stored = state(subject, held.id).await;
    assert_about(stored.lease_left, LEASE_TTL);
    assert_eq!(stored.lease_losses, 0);
    assert!(settle(subject, &held, Verdict::Done).await);
}

/// RENEW-06: each renewal has a ttl of its own.
pub async fn each_renewal_has_its_own_ttl(subject: &dyn Subject) {
    enqueue_many(subject, 3).await;
    let held = claim_pending(subject, 3).await;
    let renewal = |place: usize, hours| Renewal::new(held[place].held(), HOUR * hours);
    let renewals = [renewal(2, 2), renewal(0, 7), renewal(1, 4)];
    let renewed = subject.storage().renew(&renewals).await;
    let renewed = renewed.expect("renew succeeds");
    assert_eq!(sorted(renewed.renewed), ids(&held));
    for (claimed, hours) in held.iter().zip([7, 4, 2]) {
        let left = state(subject, claimed.id).await.lease_left;
        assert_about(left, HOUR * hours);
    }
}

/// RENEW-07: a renew waits neither for a claim nor for a settle of other messages, wherever they
/// stand still. It is called on a thread of its own, as a worker does.
pub async fn a_renew_waits_for_no_other_call(subject: &dyn Subject) {
    let heartbeat = Heartbeat::start(subject);
    for polls in 1..8 {
        enqueue_many(subject, 4).await;
        let held = claim_pending(subject, 3).await;
        let storage = subject.storage();

        let request = request(&[QUEUE], 1, Source::Pending);
        let mut claim = pin!(storage.claim(&request));
        let claimed = poll_up_to(polls, claim.as_mut()).await;
        let renewal = Renewal::new(held[0].held(), LEASE_TTL * 2);
        let answer = heartbeat.renew(subject, &storage, renewal).await;
        let answer = answer.unwrap_or_else(|| panic!("a claim after {polls} polls holds it up"));
        assert_eq!((answer.renewed, answer.lost), (vec![held[0].id], vec![]));
        let claimed = match claimed {
            Some(claimed) => claimed,
            None => claim.await,
        };
        let claimed = claimed.expect("claim succeeds").messages;
        assert_eq!(claimed.len(), 1);

        let settlements = [settlement(&held[1], Verdict::Done)];
        let mut settle = pin!(storage.settle(&settlements));
        let settled = poll_up_to(polls, settle.as_mut()).await;
        let renewal = Renewal::new(held[2].held(), LEASE_TTL * 2);
        let answer = heartbeat.renew(subject, &storage, renewal).await;
        let answer = answer.unwrap_or_else(|| panic!("a settle after {polls} polls holds it up"));
        assert_eq!((answer.renewed, answer.lost), (vec![held[2].id], vec![]));
        let settled = match settled {
            Some(settled) => settled,
            None => settle.await,
        };
        assert_eq!(settled.expect("settle succeeds").written, [held[1].id]);
    }
}

type Asked = (
    Arc<dyn Storage>,
    Renewal,
    oneshot::Sender<Result<Renewed, Error>>,
);

/// A thread that renews, and ends with this.
struct Heartbeat(mpsc::UnboundedSender<Asked>);

impl Heartbeat {
    fn start(subject: &dyn Subject) -> Self {
        let (ask, asked) = mpsc::unbounded::<Asked>();
        let renew = asked.for_each(async |(storage, renewal, answer)| {
            // Nobody hears the answer if it came too late.
            let _ = answer.send(storage.renew(&[renewal]).await);
        });
        let runtime = subject.runtime();
        let started = runtime.spawn_thread("renewals", Box::pin(renew));
        started.expect("a thread can be started");
        Self(ask)
    }

    /// `None` if there is no answer in time.
    async fn renew(
        &self,
        subject: &dyn Subject,
        storage: &Arc<dyn Storage>,
        renewal: Renewal,
    ) -> Option<Renewed> {
        let (sender, answer) = oneshot::channel();
        let asked = (Arc::clone(storage), renewal, sender);
        self.0.unbounded_send(asked).expect("the thread runs");
        let answer = timeout(&*subject.runtime(), PATIENCE, answer).await?;
        let answer = answer.expect("a renew does not panic");
        Some(answer.expect("renew succeeds"))
    }
}
