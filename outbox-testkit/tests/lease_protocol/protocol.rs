//! The choices that make the protocol safe or not, and the rules that a wrong choice breaks.

/// What a write about a delivery is compared with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fence {
    Token,
    /// The token, and that the lease has not ended.
    TokenInTime,
    /// That somebody holds the message.
    SomeLease,
    /// That the holder is of the same worker process.
    Worker,
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tokens {
    /// Drawn by the claimer, never seen before.
    Random,
    /// The stored one plus one.
    Counter,
    /// The number of the attempt.
    Attempt,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takeover {
    /// One statement that sees that the lease has ended, and leases anew.
    AtOnce,
    /// One statement that finds ended leases, and another that makes their messages available
    /// without another look.
    FromStaleRead,
    Never,
}

/// When a run commits its effect: before its settle, after it, or in one transaction with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Within,
    Before,
    After,
}

#[derive(Clone, Copy)]
pub(crate) struct Protocol {
    pub(crate) settle: Fence,
    pub(crate) renew: Fence,
    pub(crate) tokens: Tokens,
    pub(crate) takeover: Takeover,
    /// By how many ticks the clock that ends leases is ahead of the one that grants them.
    pub(crate) ahead: u8,
    pub(crate) effect: Effect,
    /// That transaction is rolled back if the settle changed nothing.
    pub(crate) rows_are_checked: bool,
    pub(crate) losses_are_counted: bool,
    /// A claim may come through after it was given up and asked for again. It leases the message
    /// once more under its token: nobody runs that delivery, and its caller, who may repeat an
    /// outcome that it decided before, counts as the holder.
    pub(crate) late_claims: bool,
    /// The storage may fail over, once, to a standby that lags behind. There are two runs then, one
    /// to a worker: the worlds of three are too many.
    pub(crate) failover: bool,
}

impl Protocol {
    pub(crate) const OURS: Self = Self {
        settle: Fence::Token,
        renew: Fence::Token,
        tokens: Tokens::Random,
        takeover: Takeover::AtOnce,
        ahead: 0,
        effect: Effect::Within,
        rows_are_checked: true,
        losses_are_counted: true,
        late_claims: false,
        failover: false,
    };
}

/// A rule that was broken on the way to a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Broken {
    /// Somebody settled or renewed who did not hold the message.
    NotTheHolder,
    /// A message was leased while another lease was valid.
    TwoLeases,
    EffectTwice,
    DoneWithoutEffect,
    /// A message was lost more often in a row than is allowed.
    TooManyLosses,
}
