//! A world: what a storage keeps of one message, what three runs in two worker processes believe,
//! and what may come next.
//!
//! Time is the ticks left of the lease by the storage's clock, so that the model has no clock to
//! bound. Every call to the storage is atomic. A reply may be lost after its call took effect, a
//! run may crash at any point, and it may stall by doing nothing while time passes.

use crate::protocol::{Broken, Effect, Fence, Protocol, Takeover, Tokens};
use crate::step::Step;

/// Two runs of worker 0, one of worker 1.
const RUNS: usize = 3;
/// Ticks that a claim or a renew grants.
const LEASE: u8 = 2;
/// An attempt that fails is the last one if it is this one.
const ATTEMPTS: u8 = 2;
/// So many losses in a row make a dead letter.
const LOSSES: u8 = 2;

/// Nobody claims once a counter is here. Only variants that never stop counting come so far.
const BOUND: u8 = 4;

const fn worker(run: usize) -> u8 {
    if run < 2 { 0 } else { 1 }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Message {
    Waiting,
    Leased,
    Done,
    Dead,
}

/// What the storage keeps, and with it what was committed in the same database.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stored {
    message: Message,
    left: u8,
    pub(crate) token: u8,
    worker: u8,
    attempts: u8,
    losses: u8,
    effects: u8,
    /// Which call leased it; a call and its repetitions are one. No protocol reads this: tokens may
    /// repeat, calls do not.
    pub(crate) call: u8,
    /// Losses in a row, counted or not.
    lost: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Run {
    Idle,
    /// A claim has had no reply.
    Asking(Held),
    Running {
        held: Held,
        worked: bool,
    },
    /// This outcome was sent and has had no reply.
    Unsure {
        held: Held,
        outcome: Outcome,
    },
}

/// What a run believes to hold, or asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    pub(crate) worker: u8,
    pub(crate) token: u8,
    pub(crate) call: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Complete,
    Retry,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) stored: Stored,
    pub(crate) runs: [Run; RUNS],
    pub(crate) standby: Option<Stored>,
    failed_over: bool,
    /// Somebody read that the lease had ended, and has not written yet.
    stale_read: bool,
    /// A claim that is still on its way.
    pub(crate) late: Option<Held>,
    pub(crate) broken: Option<Broken>,
}

impl World {
    pub(crate) const FIRST: Self = Self {
        stored: Stored {
            message: Message::Waiting,
            left: 0,
            token: 0,
            worker: 0,
            attempts: 0,
            losses: 0,
            effects: 0,
            call: 0,
            lost: 0,
        },
        runs: [Run::Idle; RUNS],
        standby: None,
        failed_over: false,
        stale_read: false,
        late: None,
        broken: None,
    };

    /// Whether the message has come to its end, or a rule is broken.
    pub(crate) fn is_final(&self) -> bool {
        self.broken.is_some() || matches!(self.stored.message, Message::Done | Message::Dead)
    }

    /// Every world that may come next. A broken one has none.
    pub(crate) fn next(&self, protocol: &Protocol) -> Vec<(Step, Self)> {
        let mut next = Vec::new();
        if self.broken.is_some() {
            return next;
        }
        self.happen(protocol, &mut next);
        let runs: &[usize] = if protocol.failover {
            &[0, 2]
        } else {
            &[0, 1, 2]
        };
        for &run in runs {
            match self.runs[run] {
                Run::Idle => self.claim(protocol, run, &mut next),
                Run::Asking(held) => self.ask_again(protocol, run, held, &mut next),
                Run::Running { held, worked } => self.run(protocol, run, held, worked, &mut next),
                Run::Unsure { held, outcome } => {
                    let mut world = self.with_run(run, Run::Idle);
                    world.settle(protocol, held, outcome);
                    next.push((Step::Repeats(run), world));
                }
            }
            if self.runs[run] != Run::Idle {
                next.push((Step::Crashes(run), self.with_run(run, Run::Idle)));
            }
        }
        for (_, world) in &mut next {
            world.rename(protocol);
        }
        next
    }

    /// What happens without any run.
    fn happen(&self, protocol: &Protocol, next: &mut Vec<(Step, Self)>) {
        let mut with = |step, change: &dyn Fn(&mut Self)| {
            let mut world = *self;
            change(&mut world);
            next.push((step, world));
        };
        let leased = self.stored.message == Message::Leased;
        if leased && self.stored.left > 0 {
            with(Step::TimePasses, &|world| world.stored.left -= 1);
        }
        if protocol.failover && !self.failed_over {
            match self.standby {
                None => with(Step::StandbyFallsBehind, &|world| {
                    world.standby = Some(world.stored);
                }),
                Some(standby) => with(Step::FailsOver, &|world| {
                    world.stored = standby;
                    world.standby = None;
                    world.failed_over = true;
                }),
            }
        }
        if protocol.takeover == Takeover::FromStaleRead {
            if self.stale_read {
                with(Step::FreesWhatItFound, &|world| {
                    world.stale_read = false;
                    world.stored.message = Message::Waiting;
                    world.stored.left = 0;
                });
            } else if leased && self.stored.left == 0 {
                with(Step::FindsEndedLease, &|world| world.stale_read = true);
            }
        }
        if let Some(held) = self.late {
            with(Step::LateClaimArrives, &|world| {
                world.late = None;
                if world.stored.message == Message::Waiting {
                    world.lease(protocol, held);
                }
            });
        }
    }

    fn claim(&self, protocol: &Protocol, run: usize, next: &mut Vec<(Step, Self)>) {
        let counted = match protocol.tokens {
            Tokens::Counter => self.stored.token,
            Tokens::Random | Tokens::Attempt => 0,
        };
        if counted.max(self.stored.attempts) >= BOUND {
            return;
        }
        let token = match protocol.tokens {
            Tokens::Random => self.unused_token(),
            Tokens::Counter => self.stored.token + 1,
            Tokens::Attempt => self.stored.attempts + 1,
        };
        let held = Held {
            worker: worker(run),
            token,
            call: self.unused_call(),
        };
        if protocol.late_claims && self.late.is_none() {
            let mut world = self.with_run(run, Run::Asking(held));
            world.late = Some(held);
            next.push((Step::SendsLateClaim(run), world));
        }
        let mut world = *self;
        match world.claim_with(protocol, held) {
            Claim::Nothing => {}
            Claim::Died => next.push((Step::Buries(run), world)),
            Claim::Leased => {
                let asking = world.with_run(run, Run::Asking(held));
                next.push((Step::ClaimsAndHearsNothing(run), asking));
                let worked = false;
                let running = world.with_run(run, Run::Running { held, worked });
                next.push((Step::Claims(run), running));
            }
        }
    }

    /// A claim whose reply was lost returns what its token holds, or claims anew.
    fn ask_again(&self, protocol: &Protocol, run: usize, held: Held, next: &mut Vec<(Step, Self)>) {
        let mut world = *self;
        let leased = world.stored.message == Message::Leased;
        let claim = if leased && world.stored.token == held.token {
            world.stored.left = LEASE;
            world.stored.call = held.call;
            Claim::Leased
        } else {
            world.claim_with(protocol, held)
        };
        let after = match claim {
            Claim::Nothing | Claim::Died => Run::Idle,
            Claim::Leased => Run::Running {
                held,
                worked: false,
            },
        };
        next.push((Step::AsksAgain(run), world.with_run(run, after)));
    }

    fn claim_with(&mut self, protocol: &Protocol, held: Held) -> Claim {
        let stored = &mut self.stored;
        let ended = stored.left <= protocol.ahead && protocol.takeover == Takeover::AtOnce;
        match stored.message {
            Message::Waiting => self.lease(protocol, held),
            Message::Leased if ended => {
                let counted = protocol.losses_are_counted;
                let last = stored.attempts >= ATTEMPTS || stored.losses + 1 >= LOSSES;
                if counted && last {
                    stored.message = Message::Dead;
                    return Claim::Died;
                }
                let valid = stored.left > 0;
                stored.losses += u8::from(counted);
                stored.lost += 1;
                // A takeover is no attempt.
                stored.attempts -= 1;
                let too_often = stored.lost >= LOSSES;
                self.lease(protocol, held);
                if valid {
                    self.broken = Some(Broken::TwoLeases);
                } else if too_often {
                    self.broken = Some(Broken::TooManyLosses);
                }
                Claim::Leased
            }
            Message::Leased | Message::Done | Message::Dead => Claim::Nothing,
        }
    }

    fn lease(&mut self, protocol: &Protocol, held: Held) -> Claim {
        let stored = &mut self.stored;
        stored.attempts += 1;
        stored.message = Message::Leased;
        stored.left = LEASE;
        stored.worker = held.worker;
        stored.call = held.call;
        stored.token = match protocol.tokens {
            Tokens::Attempt => stored.attempts,
            Tokens::Random | Tokens::Counter => held.token,
        };
        Claim::Leased
    }

    fn run(
        &self,
        protocol: &Protocol,
        run: usize,
        held: Held,
        worked: bool,
        next: &mut Vec<(Step, Self)>,
    ) {
        let idle = self.with_run(run, Run::Idle);
        let mut renewed = idle;
        if self.passes(protocol.renew, held) {
            renewed = *self;
            renewed.judge(held);
            renewed.stored.left = LEASE;
        }
        next.push((Step::Renews(run), renewed));

        if self.passes(protocol.settle, held) {
            let mut released = idle;
            released.judge(held);
            released.stored.message = Message::Waiting;
            released.stored.left = 0;
            released.stored.attempts = released.stored.attempts.saturating_sub(1);
            next.push((Step::Releases(run), released));
        }

        let unsure = |outcome| Run::Unsure { held, outcome };
        let mut retried = idle;
        retried.settle(protocol, held, Outcome::Retry);
        next.push((Step::Retries(run), retried));
        let lost = retried.with_run(run, unsure(Outcome::Retry));
        next.push((Step::RetriesAndHearsNothing(run), lost));

        if protocol.effect == Effect::Before && !worked {
            let mut world = self.with_run(run, Run::Running { held, worked: true });
            world.take_effect();
            next.push((Step::Works(run), world));
            return;
        }
        let mut completed = idle;
        completed.settle(protocol, held, Outcome::Complete);
        next.push((Step::Completes(run), completed));
        let lost = completed.with_run(run, unsure(Outcome::Complete));
        next.push((Step::CompletesAndHearsNothing(run), lost));
        let undone = self.with_run(run, unsure(Outcome::Complete));
        next.push((Step::LosesItsTransaction(run), undone));
    }

    /// Writes an outcome, in the transaction of its effect if there is one.
    fn settle(&mut self, protocol: &Protocol, held: Held, outcome: Outcome) {
        let passes = self.passes(protocol.settle, held);
        let completes = outcome == Outcome::Complete;
        let commits = passes || !protocol.rows_are_checked;
        if completes && protocol.effect == Effect::Within && commits {
            self.take_effect();
        }
        if !passes {
            return;
        }
        self.judge(held);
        let stored = &mut self.stored;
        let last = stored.attempts >= ATTEMPTS;
        stored.message = match outcome {
            Outcome::Complete => Message::Done,
            Outcome::Retry if last => Message::Dead,
            Outcome::Retry => Message::Waiting,
        };
        stored.left = 0;
        stored.losses = 0;
        stored.lost = 0;
        if stored.message == Message::Done && stored.effects == 0 {
            self.broken = Some(Broken::DoneWithoutEffect);
        }
    }

    fn passes(&self, fence: Fence, held: Held) -> bool {
        let stored = &self.stored;
        let leased = stored.message == Message::Leased;
        match fence {
            Fence::Token => leased && stored.token == held.token,
            Fence::TokenInTime => leased && stored.token == held.token && stored.left > 0,
            Fence::SomeLease => leased,
            Fence::Worker => leased && stored.worker == held.worker,
            Fence::Nothing => true,
        }
    }

    /// A write passed its fence: was it the holder's?
    fn judge(&mut self, held: Held) {
        let holds = self.stored.message == Message::Leased && self.stored.call == held.call;
        if !holds {
            self.broken = Some(Broken::NotTheHolder);
        }
    }

    fn take_effect(&mut self) {
        self.stored.effects += 1;
        if self.stored.effects > 1 {
            self.broken = Some(Broken::EffectTwice);
        }
    }

    fn with_run(&self, run: usize, state: Run) -> Self {
        let mut world = *self;
        world.runs[run] = state;
        world
    }
}

enum Claim {
    Nothing,
    Leased,
    Died,
}
