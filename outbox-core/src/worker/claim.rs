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
/// An exchange that has been under way for this long does not count among those that are worth it: it
/// may wait for a lock, or for an answer that never comes.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// What the worker holds at this moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holding {
    /// Handlers that run.
    pub(super) running: usize,
    /// Messages leased and not started.
    pub(super) ready: usize,
    /// Of both, those whose lease was lost before.
    pub(super) suspects: usize,
    /// Outcomes that go with the next claim.
    pub(super) settles: bool,
}

pub(super) struct Claiming {
    queues: Vec<QueueLease>,
    concurrency: usize,
    prefetch: usize,
    /// How many claims there may be under way.
    lanes: usize,
    /// How many at most, whatever they are worth.
    most_lanes: usize,
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
    /// Until when there is no other beside it, unless there is a backlog; if not said, until its answer.
    alone_until: Option<Instant>,
}

impl UnderWay {
    fn reclaims(&self) -> bool {
        self.source == Source::Expired
    }

    fn is_alone(&self, now: Instant) -> bool {
        self.alone_until.is_none_or(|until| now < until)
    }
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
            most_lanes: lanes,
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

    /// So many claims there may be under way from now on.
    pub(super) fn share_among(&mut self, lanes: usize) {
        self.lanes = lanes;
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
        let request = self.unresolved().or_else(|| self.next(holding, now))?;
        self.begin(&request, holding.settles.then(|| now + PATIENCE));
        Some(request)
    }

    fn next(&mut self, holding: Holding, now: Instant) -> Option<ClaimRequest> {
        let prefetch = self.prefetch.min(self.rate.within(PREFETCH_WINDOW, now));
        let capacity = self.concurrency.saturating_add(prefetch);
        let room = capacity.saturating_sub(holding.running + holding.ready + self.asked());
        if room == 0 {
            return None;
        }
        let share = capacity.div_ceil(self.lanes).min(self.ceiling);
        // Beside another claim only one that finds something, and is worth its cost.
        let worth = self.deep && room >= share / 2;
        if !worth && self.under_way.iter().any(|claim| claim.is_alone(now)) {
            return None;
        }
        // Outcomes may have to wait until somebody unlocks a message, and the claim with them: without a
        // backlog, which is claimed in shares, it leaves room to one that does not.
        let room = if holding.settles && !self.deep {
            room.div_ceil(self.most_lanes)
        } else {
            room
        };
        let reclaims = self.under_way.iter().any(UnderWay::reclaims);
        if now >= self.next_reclaim && holding.suspects == 0 && !reclaims {
            let lot = room.min(SUSPECT_LOT).min(self.ceiling);
            return Some(self.request(lot, Source::Expired));
        }
        let stocked = holding.ready > prefetch / 2;
        if (self.wanted || now >= self.next_poll || self.deep) && !stocked {
            // A hint that comes while this is on its way may be about a message it cannot see.
            self.wanted = false;
            let limit = if self.deep { room.min(share) } else { room };
            return Some(self.request(limit.min(self.ceiling), Source::Pending));
        }
        None
    }

    /// A claim that failed, to be asked for again.
    pub(super) fn resume(&mut self) -> Option<ClaimRequest> {
        let request = self.unresolved()?;
        self.begin(&request, None);
        Some(request)
    }

    fn unresolved(&mut self) -> Option<ClaimRequest> {
        let mut request = self.unresolved.pop_front()?.resumed();
        request.limit = request.limit.min(self.ceiling);
        Some(request)
    }

    /// How many messages the claims that are under way may bring.
    fn asked(&self) -> usize {
        self.under_way.iter().map(|claim| claim.limit).sum()
    }

    fn begin(&mut self, request: &ClaimRequest, alone_until: Option<Instant>) {
        self.under_way.push(UnderWay {
            token: request.token,
            source: request.source,
            limit: request.limit,
            alone_until,
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
        ClaimRequest::new(queues, limit, source)
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

    /// When [`plan`](Self::plan) may answer differently without anything else happening: while a claim is
    /// under way, once that is no longer to be alone, and then only where it left some room.
    pub(super) fn next_change(&self, holding: Holding, now: Instant) -> Option<Instant> {
        let alone = self.under_way.iter().filter(|claim| claim.is_alone(now));
        // The least is none where one of them is to be alone until its answer.
        if let Some(until) = alone.map(|claim| claim.alone_until).min() {
            return until;
        }
        if holding.running + holding.ready + self.asked() >= self.concurrency {
            return None;
        }
        if holding.suspects == 0 && !self.under_way.iter().any(UnderWay::reclaims) {
            Some(self.next_poll.min(self.next_reclaim))
        } else {
            Some(self.next_poll)
        }
    }
}

fn is_now(time: Duration) -> bool {
    time < Duration::from_millis(1)
}

#[cfg(test)]
mod tests;
