//! Transactions as single texts.
//!
//! Several statements that belong together are sent at once, from `begin` to `commit`, and run one
//! after the other on the connection's own thread. A transaction of ours is thus never open while
//! one of our futures waits to be polled: there is one write lock for the whole database, and a
//! runtime whose threads are all blocked would keep it from everybody, the heartbeat included.
//!
//! A dropped future ends its text at the statement it is at: the thread stops where nobody reads
//! the answer, the connection is closed, and what was not committed is rolled back.

use sqlx::SqlStr;

use crate::name::ready;
use crate::statements::SqliteStatements;

/// The transactions of one schema.
pub(super) struct Texts {
    pub(super) claim: SqlStr,
    pub(super) find_held: SqlStr,
    pub(super) recover: SqlStr,
    pub(super) revive: SqlStr,
    pub(super) settle: SqlStr,
    pub(super) take_over: SqlStr,
}

impl Texts {
    pub(super) fn new(of: &SqliteStatements) -> Self {
        let transaction = |statements: &[&SqlStr]| {
            let begin = std::iter::once(&of.begin);
            let all = begin.chain(statements.iter().copied());
            let all = all.chain(std::iter::once(&of.commit));
            ready(all.map(|statement| format!("{};\n", statement.as_str())))
        };
        Self {
            claim: transaction(&[&of.pending, &of.claim_pending]),
            find_held: transaction(&[&of.held]),
            recover: transaction(&[&of.release, &of.recover]),
            revive: transaction(&[&of.revive, &of.forget]),
            settle: transaction(&[
                &of.bury,
                &of.remove,
                &of.settle_held,
                &of.settle_delete,
                &of.settle_return,
            ]),
            take_over: transaction(&[&of.bury, &of.remove, &of.reclaim]),
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<&SqlStr> {
        vec![
            &self.claim,
            &self.find_held,
            &self.recover,
            &self.revive,
            &self.settle,
            &self.take_over,
        ]
    }
}
