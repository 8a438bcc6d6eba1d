//! How much to claim, from where, and when. A pure state machine: it is told the time and what
//! the worker holds, and answers with the next request.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Settings;
use super::rate::Rate;
use crate::lease::LeaseToken;
use crate::storage::{Claim, ClaimRequest, QueueLease, Source};

/// Messages that were lost once are claimed in lots of this many, and the next lot only when
/// the last one has ended: a message that kills its process drags few others along.
const SUSPECT_LOT: usize = 8;
/// Most messages of one claim.
const MAX_CLAIM: usize = 500;
/// Prefetch covers what ran in this time.
const PREFETCH_WINDOW: Duration = Duration::from_millis(100);
const FIRST_STALL: Duration = Duration::from_millis(5);

/// What the worker holds at this moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holding {
    /// Handlers that run.
    pub(super) running: usize,
    /// Messages leased and not started.
    pub(super) ready: usize,
    /// Of both, those whose lease was lost before.
    pub(super) suspects: usize,
}

pub(super) struct Claiming {
    queues: Vec<QueueLease>,
    concurrency: usize,
    prefetch: usize,
    /// How many claims there may be under way.
    lanes: usize,
    poll_interval: Duration,
    /// A quarter of the shortest lease: how often expired leases are looked for at least.
    reclaim_interval: Duration,
    /// There may be pending messages: look as soon as there is room.
    wanted: bool,
    next_poll: Instant,
    next_reclaim: Instant,
    under_way: Vec<UnderWay>,
    /// The last claim of pending messages was answered in full: one more beside it finds some too.
    deep: bool,
    /// Claims that failed; they may have leased messages, and are asked for again first.
    unresolved: VecDeque<ClaimRequest>,
    /// Claims in a row that found nothing although something is said to be there.
    stalled: u32,
    /// The most messages of one claim: less than [`MAX_CLAIM`] after a claim failed, which may
    /// have been too large to be answered in time.
    ceiling: usize,
    rate: Rate,
    /// How many requests there were for each source: its queues take turns at being first.
    rotations: [usize; 2],
}

/// A claim that is not answered yet.
struct UnderWay {
    token: LeaseToken,
    source: Source,
    limit: usize,
}

impl Claiming {
    pub(super) fn new(
        queues: Vec<QueueLease>,
        settings: &Settings,
        lanes: usize,
        now: Instant,
    ) -> Self {
        let shortest = queues.iter().map(|queue| queue.lease_ttl).min();
        Self {
            queues,
            concurrency: settings.concurrency,
            prefetch: settings.prefetch,
            lanes,
            poll_interval: settings.poll_interval,
            reclaim_interval: shortest.map_or(settings.poll_interval, |ttl| ttl / 4),
            wanted: true,
            next_poll: now,
            next_reclaim: now,
            under_way: Vec::new(),
            deep: false,
            unresolved: VecDeque::new(),
            stalled: 0,
            ceiling: MAX_CLAIM,
            rate: Rate::new(now),
            rotations: [0; 2],
        }
    }

    /// Somebody hinted that there may be pending messages.
    pub(super) fn woken(&mut self) {
        self.wanted = true;
    }

    /// A message that was put back is due again after this time, perhaps before the next poll.
    pub(super) fn due_again(&mut self, after: Duration, now: Instant) {
        self.next_poll = self.next_poll.min(now + after);
    }

    /// Handlers ended.
    pub(super) fn finished(&mut self, count: usize, now: Instant) {
        self.rate.count(count, now);
    }

    /// The next request, if there is room and reason for one.
    pub(super) fn plan(&mut self, holding: Holding, now: Instant) -> Option<ClaimRequest> {
        if let Some(failed) = self.resume() {
            return Some(failed);
        }
        let prefetch = self.prefetch.min(self.rate.within(PREFETCH_WINDOW, now));
        let capacity = self.concurrency.saturating_add(prefetch);
        let asked: usize = self.under_way.iter().map(|claim| claim.limit).sum();
        let room = capacity.saturating_sub(holding.running + holding.ready + asked);
        if room == 0 {
            return None;
        }
        let looks_for = |source| self.under_way.iter().any(|claim| claim.source == source);
        if now >= self.next_reclaim && holding.suspects == 0 && !looks_for(Source::Expired) {
            let lot = room.min(SUSPECT_LOT).min(self.ceiling);
            return Some(self.request(lot, Source::Expired));
        }
        let share = capacity.div_ceil(self.lanes).min(self.ceiling);
        // Beside another claim only one that is worth its cost.
        let waits = looks_for(Source::Pending) && !(self.deep && room >= share / 2);
        let stocked = holding.ready > prefetch / 2;
        if (self.wanted || now >= self.next_poll || self.deep) && !stocked && !waits {
            // A hint that comes while this is on its way may be about a message it cannot see.
            self.wanted = false;
            let limit = if self.deep { room.min(share) } else { room };
            return Some(self.request(limit.min(self.ceiling), Source::Pending));
        }
        None
    }

    /// A claim that failed, to be asked for again.
    pub(super) fn resume(&mut self) -> Option<ClaimRequest> {
        let mut request = self.unresolved.pop_front()?.resumed();
        request.limit = request.limit.min(self.ceiling);
        self.begin(&request);
        Some(request)
    }

    fn begin(&mut self, request: &ClaimRequest) {
        self.under_way.push(UnderWay {
            token: request.token,
            source: request.source,
            limit: request.limit,
        });
    }

    fn end(&mut self, request: &ClaimRequest) {
        self.under_way.retain(|claim| claim.token != request.token);
    }

    /// Queues take turns at being first, so that a full one does not starve the others. Each
    /// source turns by itself: where they alternate, they would always meet the same queues.
    fn request(&mut self, limit: usize, source: Source) -> ClaimRequest {
        let rotation = match source {
            Source::Pending => &mut self.rotations[0],
            Source::Expired => &mut self.rotations[1],
        };
        let mut queues = self.queues.clone();
        if !queues.is_empty() {
            let first = *rotation % queues.len();
            queues.rotate_left(first);
            *rotation = rotation.wrapping_add(1);
        }
        let request = ClaimRequest::new(queues, limit, source);
        self.begin(&request);
        request
    }

    pub(super) fn answered(&mut self, request: &ClaimRequest, claim: &Claim, now: Instant) {
        self.end(request);
        if request.source == Source::Pending {
            self.deep = !request.resume && claim.messages.len() >= request.limit;
        }
        // By an eighth, so that a limit that fails is met once in a while and not every time.
        self.ceiling = (self.ceiling + self.ceiling / 8 + 1).min(MAX_CLAIM);
        match request.source {
            Source::Expired => {
                let some = !claim.messages.is_empty() || !claim.dead.is_empty();
                self.next_reclaim = if some {
                    now
                } else {
                    now + self.reclaim_pause()
                };
            }
            Source::Pending if claim.messages.is_empty() => {
                self.stalled = if claim.next_due.is_some_and(is_now) {
                    self.stalled.saturating_add(1)
                } else {
                    0
                };
                let poll = self.poll_interval.mul_f64(0.8 + 0.4 * fastrand::f64());
                let due = claim.next_due.map(|due| due.max(self.stall_pause()));
                self.next_poll = now + due.map_or(poll, |due| due.min(poll));
                // A lease that ends sooner would have been named below.
                self.next_reclaim = now + self.reclaim_interval;
            }
            // There may be more, and if not, the answer says when to look again.
            Source::Pending => {
                self.wanted = true;
                self.stalled = 0;
            }
        }
        let taken = request.source == Source::Expired && claim.messages.is_empty();
        match claim.next_expiry {
            // Expired and not to be had: somebody works on it. The next look comes with the poll.
            Some(expiry) if taken && is_now(expiry) => {}
            Some(expiry) => {
                let next = now + expiry.min(self.reclaim_interval);
                self.next_reclaim = self.next_reclaim.min(next);
            }
            None => {}
        }
    }

    /// Under load no claim tells when the next lease ends: look with every poll.
    fn reclaim_pause(&self) -> Duration {
        self.reclaim_interval.min(self.poll_interval)
    }

    /// Messages that are due and cannot be claimed are locked by somebody's transaction: asked
    /// for again soon, and then less and less often, up to the poll.
    fn stall_pause(&self) -> Duration {
        match self.stalled {
            0 => Duration::ZERO,
            times => FIRST_STALL.saturating_mul(1 << times.min(10)),
        }
    }

    /// The request failed, and may have taken effect all the same.
    pub(super) fn failed(&mut self, request: ClaimRequest) {
        self.end(&request);
        self.ceiling = (request.limit / 2).clamp(1, self.ceiling);
        self.unresolved.push_back(request);
    }

    /// The request was refused for good, and again when it was repeated if it is a resumed one. One
    /// message whose expired lease nobody can take over must not keep the pending ones waiting.
    pub(super) fn refused(&mut self, request: ClaimRequest, now: Instant) {
        if request.source == Source::Expired && request.resume {
            self.end(&request);
            self.next_reclaim = now + self.reclaim_pause();
        } else {
            self.failed(request);
        }
    }

    /// Whether a claim that failed may have leased messages.
    pub(super) fn is_unresolved(&self) -> bool {
        !self.unresolved.is_empty()
    }

    /// When [`plan`](Self::plan) may answer differently without anything else happening.
    pub(super) fn next_change(&self, holding: Holding) -> Instant {
        if holding.suspects == 0 {
            self.next_poll.min(self.next_reclaim)
        } else {
            self.next_poll
        }
    }
}

fn is_now(time: Duration) -> bool {
    time < Duration::from_millis(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::lease::{Held, LeaseToken};
    use crate::message::MessageId;
    use crate::storage::Claimed;

    const SECOND: Duration = Duration::from_secs(1);

    fn queue(name: &str) -> QueueLease {
        QueueLease::new(name, SECOND * 30)
    }

    fn claiming(concurrency: usize, prefetch: usize, now: Instant) -> Claiming {
        let settings = Settings {
            concurrency,
            prefetch,
            ..Settings::default()
        };
        Claiming::new(vec![queue("a"), queue("b")], &settings, 1, now)
    }

    fn messages(count: usize) -> Claim {
        let message = Claimed::new(
            Held {
                id: MessageId(1),
                token: LeaseToken::random(),
            },
            Arc::from("a"),
            Arc::from("k"),
            Vec::new(),
        );
        Claim::new(vec![message; count])
    }

    /// Answers the first look for expired leases with nothing.
    fn past_first_reclaim(claiming: &mut Claiming, now: Instant) {
        let request = claiming.plan(Holding::default(), now).expect("at start");
        assert_eq!(request.source, Source::Expired);
        claiming.answered(&request, &Claim::default(), now);
    }

    #[test]
    fn a_starting_worker_looks_for_expired_leases_first_and_then_for_pending_messages() {
        let now = Instant::now();
        let mut claiming = claiming(10, 0, now);
        past_first_reclaim(&mut claiming, now);
        let request = claiming.plan(Holding::default(), now).expect("pending");
        assert_eq!((request.source, request.limit), (Source::Pending, 10));
        assert!(!request.resume);
    }

    #[test]
    fn a_full_answer_is_followed_by_another_claim_as_soon_as_a_slot_is_free() {
        let now = Instant::now();
        let mut claiming = claiming(10, 0, now);
        past_first_reclaim(&mut claiming, now);
        let request = claiming.plan(Holding::default(), now).expect("pending");
        claiming.answered(&request, &messages(10), now);
        let busy = Holding {
            running: 10,
            ..Holding::default()
        };
        assert!(claiming.plan(busy, now).is_none(), "no slot is free");
        let freed = Holding { running: 7, ..busy };
        let request = claiming.plan(freed, now).expect("three slots are free");
        assert_eq!((request.source, request.limit), (Source::Pending, 3));
    }

    #[test]
    fn after_some_messages_it_looks_for_more_while_they_run() {
        let now = Instant::now();
        let mut claiming = claiming(10, 0, now);
        past_first_reclaim(&mut claiming, now);
        let request = claiming.plan(Holding::default(), now).expect("pending");
        claiming.answered(&request, &messages(2), now);
        let running = Holding {
            running: 2,
            ..Holding::default()
        };
        let request = claiming.plan(running, now).expect("eight slots are free");
        assert_eq!((request.source, request.limit), (Source::Pending, 8));
        claiming.answered(&request, &Claim::default(), now);
        assert!(claiming.plan(running, now).is_none(), "that was all");
    }

    #[test]
    fn a_hint_that_crosses_a_claim_is_not_lost() {
        let now = Instant::now();
        let mut claiming = claiming(10, 0, now);
        past_first_reclaim(&mut claiming, now);
        let request = claiming.plan(Holding::default(), now).expect("pending");
        claiming.woken();
        claiming.answered(&request, &Claim::default(), now);
        assert!(claiming.plan(Holding::default(), now).is_some());
    }

    #[test]
    fn after_an_empty_answer_it_waits_for_the_poll_the_next_due_time_or_a_hint() {
        let now = Instant::now();
        let mut claiming = claiming(10, 0, now);
        past_first_reclaim(&mut claiming, now);
        let request = claiming.plan(Holding::default(), now).expect("pending");
        let empty = Claim {
            next_due: Some(Duration::from_millis(120)),
            ..Claim::default()
        };
        claiming.answered(&request, &empty, now);
        assert!(claiming.plan(Holding::default(), now).is_none());
        let due = now + Duration::from_millis(120);
        assert_eq!(claiming.next_change(Holding::default()), due);
        let request = claiming.plan(Holding::default(), due).expect("due");

        claiming.answered(&request, &Claim::default(), now);
        let poll = claiming.next_poll - now;
        assert!(poll >= SECOND.mul_f64(0.8) && poll <= SECOND.mul_f64(1.2));
        assert!(claiming.plan(Holding::default(), now).is_none());
        claiming.woken();
        assert!(claiming.plan(Holding::default(), now).is_some());
    }

    #[test]
    fn messages_that_somebody_keeps_locked_are_asked_for_less_and_less_often() {
        let now = Instant::now();
        let mut claiming = claiming(10, 0, now);
        past_first_reclaim(&mut claiming, now);
        let request = claiming.plan(Holding::default(), now).expect("pending");
        let locked = Claim {
            next_due: Some(Duration::ZERO),
            ..Claim::default()
        };
        for pause in [10, 20, 40, 80, 160, 320, 640] {
            claiming.answered(&request, &locked, now);
            assert_eq!(claiming.next_poll, now + Duration::from_millis(pause));
        }
        claiming.answered(&request, &locked, now);
        assert!(claiming.next_poll <= now + SECOND.mul_f64(1.2), "the poll");
        claiming.answered(&request, &messages(1), now);
        claiming.answered(&request, &locked, now);
        assert_eq!(claiming.next_poll, now + Duration::from_millis(10));
    }

    #[test]
    fn expired_leases_that_somebody_keeps_locked_wait_for_the_poll() {
        let now = Instant::now();
        let mut claiming = claiming(10, 0, now);
        let request = claiming.plan(Holding::default(), now).expect("expired");
        let locked = Claim {
            next_expiry: Some(Duration::ZERO),
            ..Claim::default()
        };
        claiming.answered(&request, &locked, now);
        assert_eq!(claiming.next_reclaim, now + SECOND);
    }

    #[test]
    fn the_end_of_a_foreign_lease_is_looked_at_when_it_comes() {
        let now = Instant::now();
        let mut claiming = claiming(10, 0, now);
        past_first_reclaim(&mut claiming, now);
        let request = claiming.plan(Holding::default(), now).expect("pending");
        let empty = Claim {
            next_expiry: Some(Duration::from_millis(300)),
            ..Claim::default()
        };
        claiming.answered(&request, &empty, now);
        let expired = now + Duration::from_millis(300);
        let request = claiming.plan(Holding::default(), expired).expect("expired");
        assert_eq!(request.source, Source::Expired);
    }

    #[test]
    fn expired_leases_are_looked_for_every_quarter_lease_and_under_load_with_every_poll() {
        let now = Instant::now();
        let quarter = now + SECOND * 30 / 4;
        let mut claiming = claiming(10, 0, now);
        past_first_reclaim(&mut claiming, now);
        let request = claiming.plan(Holding::default(), now).expect("pending");
        claiming.answered(&request, &messages(10), now);
        let next = claiming
            .plan(Holding::default(), now + SECOND)
            .expect("expired");
        assert_eq!(next.source, Source::Expired, "with the poll, under load");

        claiming.answered(&next, &Claim::default(), now);
        claiming.answered(&request, &Claim::default(), now);
        assert_eq!(
            claiming.next_reclaim, quarter,
            "no lease is held by anybody"
        );
        let next = claiming.plan(Holding::default(), quarter).expect("expired");
        assert_eq!(next.source, Source::Expired);
    }

    #[test]
    fn suspects_come_in_small_lots_and_the_next_lot_waits_for_the_last() {
        let now = Instant::now();
        let mut claiming = claiming(100, 0, now);
        let request = claiming.plan(Holding::default(), now).expect("expired");
        assert_eq!((request.source, request.limit), (Source::Expired, 8));
        claiming.answered(&request, &messages(8), now);
        let suspects = Holding {
            running: 8,
            ready: 0,
            suspects: 1,
        };
        let request = claiming.plan(suspects, now).expect("ordinary ones go on");
        assert_eq!(request.source, Source::Pending);
        claiming.answered(&request, &messages(1), now);
        let ended = Holding {
            suspects: 0,
            ..suspects
        };
        let request = claiming.plan(ended, now).expect("the next lot");
        assert_eq!(request.source, Source::Expired);
    }

    #[test]
    fn a_failed_claim_is_asked_for_again_under_its_token() {
        let now = Instant::now();
        let mut claiming = claiming(10, 0, now);
        past_first_reclaim(&mut claiming, now);
        let request = claiming.plan(Holding::default(), now).expect("pending");
        let token = request.token;
        claiming.failed(request);
        let again = claiming.plan(Holding::default(), now).expect("again");
        assert!(again.resume);
        assert_eq!(again.token, token);
    }

    #[test]
    fn prefetch_follows_what_ran_recently() {
        let now = Instant::now();
        let mut claiming = claiming(10, 100, now);
        past_first_reclaim(&mut claiming, now);
        let slow = claiming.plan(Holding::default(), now).expect("pending");
        assert_eq!(slow.limit, 10, "nothing ran yet, so nothing is prefetched");
        claiming.answered(&slow, &messages(10), now);
        for step in 1..=20_u32 {
            claiming.finished(500, now + Duration::from_millis(50) * step);
        }
        let later = now + SECOND;
        claiming.next_reclaim = later + SECOND;
        let fast = claiming.plan(Holding::default(), later).expect("pending");
        assert_eq!(fast.limit, 110, "10,000 per second fill the prefetch");
        claiming.answered(&fast, &messages(110), later);
        let stocked = Holding {
            running: 10,
            ready: 51,
            suspects: 0,
        };
        assert!(claiming.plan(stocked, later).is_none(), "half is in stock");
        let low = Holding {
            ready: 50,
            ..stocked
        };
        assert_eq!(claiming.plan(low, later).expect("low").limit, 50);
    }

    /// With lanes for two claims, and after a full answer.
    fn deep(concurrency: usize, now: Instant) -> Claiming {
        let mut claiming = Claiming {
            lanes: 2,
            ..claiming(concurrency, 0, now)
        };
        past_first_reclaim(&mut claiming, now);
        let request = claiming.plan(Holding::default(), now).expect("pending");
        assert_eq!(request.limit, concurrency, "nothing is known yet");
        assert!(claiming.plan(Holding::default(), now).is_none());
        claiming.answered(&request, &messages(concurrency), now);
        claiming
    }

    #[test]
    fn a_backlog_is_claimed_in_shares_one_beside_the_other() {
        let now = Instant::now();
        let mut claiming = deep(400, now);
        let first = claiming.plan(Holding::default(), now).expect("a share");
        let second = claiming.plan(Holding::default(), now).expect("the other");
        assert_eq!((first.limit, second.limit), (200, 200));
        assert!(claiming.plan(Holding::default(), now).is_none(), "no room");
        claiming.answered(&first, &messages(200), now);
        let holding = |running| Holding {
            running,
            ..Holding::default()
        };
        assert!(claiming.plan(holding(101), now).is_none(), "not worth it");
        let third = claiming.plan(holding(100), now).expect("half a share");
        assert_eq!(third.limit, 100);
    }

    #[test]
    fn beside_a_claim_that_may_find_nothing_there_is_no_other() {
        let now = Instant::now();
        let mut claiming = deep(400, now);
        let last = claiming.plan(Holding::default(), now).expect("a share");
        claiming.answered(&last, &messages(199), now);
        let request = claiming.plan(Holding::default(), now).expect("pending");
        assert_eq!(request.limit, 400);
        claiming.woken();
        let busy = Holding::default();
        assert!(claiming.plan(busy, now).is_none(), "a hint waits for it");
        claiming.answered(&request, &Claim::default(), now);
        assert!(claiming.plan(busy, now).is_some(), "and is not lost");
    }

    #[test]
    fn claims_that_failed_are_asked_for_again_one_by_one() {
        let now = Instant::now();
        let mut claiming = deep(400, now);
        let first = claiming.plan(Holding::default(), now).expect("a share");
        let second = claiming.plan(Holding::default(), now).expect("the other");
        let tokens = [first.token, second.token];
        claiming.failed(first);
        claiming.failed(second);
        assert!(claiming.is_unresolved());
        let again = tokens.map(|_| claiming.plan(Holding::default(), now).expect("again"));
        assert!(again.iter().all(|request| request.resume));
        assert_eq!(again.map(|request| request.token), tokens);
        assert!(!claiming.is_unresolved());
    }

    #[test]
    fn queues_take_turns_at_being_first() {
        let now = Instant::now();
        let mut claiming = claiming(10, 0, now);
        let first = claiming.request(1, Source::Pending);
        let second = claiming.request(1, Source::Pending);
        assert_ne!(first.queues[0], second.queues[0]);
        assert_ne!(first.token, second.token);
    }

    #[test]
    fn queues_take_turns_where_the_sources_alternate() {
        let now = Instant::now();
        let mut claiming = claiming(10, 0, now);
        let mut firsts = |source| {
            claiming.request(1, Source::Expired);
            claiming.request(1, source).queues[0].queue.to_string()
        };
        assert_ne!(firsts(Source::Pending), firsts(Source::Pending));
    }

    #[test]
    fn a_claim_after_one_that_failed_is_smaller_and_later_ones_grow_again() {
        let now = Instant::now();
        let mut claiming = claiming(400, 0, now);
        past_first_reclaim(&mut claiming, now);
        let request = claiming.plan(Holding::default(), now).expect("pending");
        assert_eq!(request.limit, 400);
        claiming.failed(request);
        let again = claiming.plan(Holding::default(), now).expect("again");
        assert_eq!(again.limit, 200);
        claiming.failed(again);
        let again = claiming.plan(Holding::default(), now).expect("again");
        assert_eq!(again.limit, 100);
        claiming.answered(&again, &messages(100), now);
        let next = claiming.plan(Holding::default(), now).expect("pending");
        assert_eq!(next.limit, 113);
        for _ in 0..20 {
            claiming.answered(&next, &messages(1), now);
        }
        let next = claiming.plan(Holding::default(), now).expect("pending");
        assert_eq!(next.limit, 400);
    }
}
