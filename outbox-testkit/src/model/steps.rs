//! The random steps. Every step can follow every other: what it refers to is found by a number
//! modulo what there is.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// Queues, by their place.
pub(super) const QUEUES: [&str; 2] = ["mail", "orders"];

/// Something that is done to a storage, or that happens to it.
#[derive(Clone, Debug)]
pub struct Step(pub(super) Kind);

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Enqueue(Vec<New>),
    Claim {
        queues: Vec<usize>,
        limit: usize,
        expired: bool,
    },
    /// A claim of the past, asked for again.
    Resume {
        claim: usize,
        limit: usize,
    },
    Settle(Vec<(Claimed, Write)>),
    /// A settle of messages of the other queue and a claim from this one, in one call: which of the
    /// two comes first is left open.
    Exchange {
        writes: Vec<(Claimed, Write)>,
        queue: usize,
        limit: usize,
        expired: bool,
    },
    Renew(Vec<(Claimed, Ttl)>),
    /// All leases end: their holders have crashed or stalled.
    Expire,
    MakeDue,
    /// A message of the past.
    Cancel(usize),
}

/// A delivery of the past, which holds its message or does not.
#[derive(Clone, Debug)]
pub(super) struct Claimed {
    pub(super) delivery: usize,
    /// Its message is presented with the token of this other delivery.
    pub(super) token_of: Option<usize>,
}

#[derive(Clone, Debug)]
pub(super) struct New {
    pub(super) queue: usize,
    pub(super) key: Option<u8>,
    pub(super) priority: i16,
    /// It waits so many hours.
    pub(super) hours: u64,
    pub(super) max_attempts: u16,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Write {
    Done,
    Discard,
    RetryNow,
    RetryLater,
    Snooze,
    Release,
    Dead,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Ttl {
    /// Shorter than any lease, and longer than a run takes.
    Minutes,
    Hour,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec(step().prop_map(Step), 1..40)
}

fn step() -> impl Strategy<Value = Kind> {
    // Of the past mostly the newest, which is the most likely to be there still.
    let past = || prop_oneof![3 => 0..6_usize, 1 => any::<u8>().prop_map(usize::from)];
    let claimed = || {
        let token_of = option::weighted(0.1, past());
        let claimed = (past(), token_of);
        claimed.prop_map(|(delivery, token_of)| Claimed { delivery, token_of })
    };
    let queues = select(vec![vec![0, 1], vec![1, 0], vec![0], vec![1]]);
    let claim = (queues, 1..6_usize, any::<bool>());
    let claim = claim.prop_map(|(queues, limit, expired)| Kind::Claim {
        queues,
        limit,
        expired,
    });
    let resume = (0..3_usize, 1..6_usize);
    let resume = resume.prop_map(|(claim, limit)| Kind::Resume { claim, limit });
    let writes = || vec((claimed(), write()), 1..5);
    let exchange = (writes(), 0..QUEUES.len(), 1..6_usize, any::<bool>());
    let exchange = exchange.prop_map(|(writes, queue, limit, expired)| Kind::Exchange {
        writes,
        queue,
        limit,
        expired,
    });
    prop_oneof![
        4 => vec(new(), 1..5).prop_map(Kind::Enqueue),
        6 => claim,
        1 => resume,
        4 => writes().prop_map(Kind::Settle),
        3 => exchange,
        2 => vec((claimed(), ttl()), 1..4).prop_map(Kind::Renew),
        3 => Just(Kind::Expire),
        1 => Just(Kind::MakeDue),
        1 => past().prop_map(Kind::Cancel),
    ]
}

fn new() -> impl Strategy<Value = New> {
    let hours = prop_oneof![3 => Just(0), 1 => 1..4_u64];
    let key = option::weighted(0.3, 0..3_u8);
    let new = (0..QUEUES.len(), key, -1..=1_i16, hours, 1..4_u16);
    new.prop_map(|(queue, key, priority, hours, max_attempts)| New {
        queue,
        key,
        priority,
        hours,
        max_attempts,
    })
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        Just(Write::Done),
        Just(Write::Discard),
        Just(Write::RetryNow),
        Just(Write::RetryLater),
        Just(Write::Snooze),
        Just(Write::Release),
        Just(Write::Dead),
    ]
}

fn ttl() -> impl Strategy<Value = Ttl> {
    prop_oneof![Just(Ttl::Minutes), Just(Ttl::Hour)]
}
