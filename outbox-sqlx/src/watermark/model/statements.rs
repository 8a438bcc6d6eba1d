//! What the statements do in the model, and what they may not do.

use std::collections::BTreeMap;
use std::sync::Arc;

use outbox_core::{Claimed, Held, LeaseToken, MessageId, PRIORITIES};

use super::*;

impl World<'_> {
    /// As `claim_pending.sql`; says whether it passes what was taken before.
    pub(super) fn claim(
        &mut self,
        storage: usize,
        queues: &[QueueLease],
        since: &[Option<Mark>],
        begun: (Instant, u64),
    ) -> (Vec<Leased>, bool) {
        let (clock, now, slow) = (self.clock(), self.now, self.now < self.slow_until);
        let patience = if slow { LONG_PATIENCE } else { PATIENCE };
        let (mut found, mut not_read, mut sweeps) = (Vec::new(), Vec::new(), false);
        for (level, since) in levels(queues).zip(since) {
            let rows = self.rows.iter().filter(|(_, row)| {
                (row.queue, row.priority) == level
                    && row.lease.is_none()
                    && row.due_at <= clock
                    && row.free_at <= now
            });
            let mut waiting: Vec<Mark> = rows.map(|(id, row)| row.mark(*id)).collect();
            waiting.sort_unstable();
            if found.len() >= LIMIT {
                not_read.extend(waiting);
                continue;
            }
            // Where nothing ever was there is nothing to pass.
            sweeps |= since.is_none() && USED.contains(&level.1);
            let passed = waiting.partition_point(|mark| since.is_some_and(|since| *mark < since));
            for mark in waiting.drain(..passed) {
                let row = &self.rows[&mark.id];
                let since = row.waits_since.expect("it could be claimed");
                let waited = begun.0.saturating_duration_since(since);
                assert!(waited < patience, "passed after {waited:?}: {mark:?}");
                let told = row
                    .put_back
                    .is_some_and(|(by, step)| by == storage && step < begun.1);
                assert!(slow || !told, "passed what was put back: {mark:?}");
            }
            let taken = waiting.into_iter().take(LIMIT - found.len());
            found.extend(taken.map(|mark| leased(level, mark, clock)));
        }
        for mark in not_read.iter().filter(|_| slow) {
            // A claim that fails cannot tell what it has come to, and counts all of it as swept.
            let row = self.rows.get_mut(&mark.id).expect("it is there");
            row.waits_since = Some(now);
        }
        self.lease(found.iter().map(|one| one.claimed.id.0).collect());
        (found, sweeps)
    }

    /// As `claim_expired.sql`; says whether there was any.
    pub(super) fn take_over(
        &mut self,
        queues: &[QueueLease],
        since: &[Option<Timestamp>],
        begun: (Instant, u64),
    ) -> bool {
        let (clock, now, slow) = (self.clock(), self.now, self.now < self.slow_until);
        let mut taken = Vec::new();
        for (lease, since) in queues.iter().zip(since) {
            let rows = self.rows.iter().filter(|(_, row)| {
                row.queue == &*lease.queue
                    && row.free_at <= now
                    && row.lease.is_some_and(|end| end <= clock)
            });
            let mut ended: Vec<_> = rows.map(|(id, row)| (row.lease, *id)).collect();
            ended.sort_unstable();
            let passed = ended.partition_point(|(end, _)| end < since);
            for (_, id) in ended.drain(..passed) {
                let since = self.rows[&id].waits_since.expect("it has ended");
                let waited = begun.0.saturating_duration_since(since);
                assert!(
                    slow && waited < LONG_PATIENCE,
                    "lease of {id} after {waited:?}"
                );
            }
            taken.extend(ended.into_iter().map(|(_, id)| id));
        }
        taken.truncate(LIMIT);
        let found_some = !taken.is_empty();
        self.lease(taken);
        found_some
    }

    /// What an empty answer says about what comes next.
    pub(super) fn look_ahead(
        &mut self,
        storage: usize,
        queues: &[QueueLease],
        begun: Instant,
        reach: Reach,
    ) {
        let (marks, clock) = (&self.marks[storage], self.clock());
        let ahead = marks.ahead(queues, self.now);
        let hints = ahead.hints(reach, queues.len());
        let since: BTreeMap<_, _> = levels(queues).zip(&ahead.since).collect();
        let is_due = self.rows.iter().any(|(id, row)| {
            let begins = since.get(&(row.queue, row.priority));
            row.lease.is_none()
                && row.due_at <= clock
                && begins.is_some_and(|begins| begins.is_none_or(|begins| row.mark(*id) >= begins))
        });
        if !is_due && hints.sweep_in.is_none() {
            for (id, row) in &self.rows {
                let asked = queues.iter().any(|lease| &*lease.queue == row.queue);
                let waits = row.lease.is_none() && row.waits_since.is_some_and(|at| at < begun);
                assert!(!(asked && waits), "{id} is there, {reach:?}");
            }
        }
        marks.looked_ahead(&ahead, clock, Duration::from_millis(1), self.now);
    }
}

/// The queues and priorities of a request, in its order.
fn levels(queues: &[QueueLease]) -> impl Iterator<Item = (&str, i16)> {
    let levels = |lease| PRIORITIES.map(move |priority| (lease, priority));
    queues.iter().flat_map(move |lease| levels(&*lease.queue))
}

fn leased((queue, priority): (&str, i16), mark: Mark, claimed_at: Timestamp) -> Leased {
    let held = Held {
        id: MessageId(mark.id),
        token: LeaseToken::random(),
    };
    Leased {
        claimed: Claimed::new(held, Arc::from(queue), Arc::from("k"), Vec::new()),
        priority,
        due_at: mark.due_at,
        claimed_at,
    }
}
