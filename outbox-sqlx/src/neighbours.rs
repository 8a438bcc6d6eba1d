//! Neighbours: other workers of the same queues that work off a backlog. Each claim under way passes
//! the messages that the others have locked, so that workers with neighbours share the exchanges
//! that one of them would have alone.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outbox_core::{ClaimRequest, Error};
use sqlx::Row;

use crate::error::storage_error;
use crate::lane::Answer;
use crate::storage::Inner;

/// How often a worker with a backlog looks for others.
const INTERVAL: Duration = Duration::from_millis(250);
/// How long it believes what it saw.
const BELIEVED: Duration = Duration::from_secs(2);
/// How long it does not look after that failed, which costs a connection.
const REST: Duration = Duration::from_secs(60);

/// How many others there are.
#[derive(Default)]
pub(crate) struct Neighbours {
    /// Guards what was seen; never held over an await.
    seen: Mutex<Option<Seen>>,
}

#[derive(Clone, Copy)]
struct Seen {
    others: usize,
    at: Instant,
    next_look: Instant,
}

impl Neighbours {
    /// How many of so many exchanges this worker has under way.
    pub(crate) fn share_of(&self, exchanges: usize, now: Instant) -> usize {
        let seen = *self.lock();
        let seen = seen.filter(|seen| now.saturating_duration_since(seen.at) < BELIEVED);
        let others = seen.map_or(0, |seen| seen.others);
        (exchanges / others.saturating_add(1)).max(1)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.lock().is_none_or(|seen| seen.next_look <= now)
    }

    /// `None` if it could not look.
    fn saw(&self, others: Option<usize>, at: Instant) {
        let pause = if others.is_some() { INTERVAL } else { REST };
        *self.lock() = Some(Seen {
            others: others.unwrap_or(0),
            at,
            next_look: at + pause,
        });
    }

    fn lock(&self) -> MutexGuard<'_, Option<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks for others and makes this worker known to them, unless that would hold up what was just
/// claimed. Its claims go on as before where it fails.
pub(crate) async fn look(inner: &Inner, request: &ClaimRequest) {
    let now = Instant::now();
    if !inner.neighbours.is_due(now) {
        return;
    }
    let name = name(inner, request);
    // Always the same connection: by it others know this worker from others.
    let first = inner.control.first();
    let answer = first.fetch_if_idle("claim", || {
        sqlx::query(inner.statements.neighbours.clone()).bind(&name)
    });
    let Some(answer) = answer.await else {
        return;
    };
    let others = answer
        .map_err(Error::from)
        .and_then(|answer| read(&answer).map_err(|error| storage_error("claim", error)));
    if let Err(error) = &others {
        tracing::debug!(%error, "other workers cannot be looked for");
    }
    inner.neighbours.saw(others.ok(), now);
}

/// What workers of the same queues have in common, in whatever order they ask for them.
fn name(inner: &Inner, request: &ClaimRequest) -> String {
    let mut queues: Vec<&str> = request.queues.iter().map(|one| &*one.queue).collect();
    queues.sort_unstable();
    format!(
        "outbox workers {} {}",
        inner.schema.as_str(),
        queues.join(" ")
    )
}

fn read(answer: &Answer) -> Result<usize, sqlx::Error> {
    let row = answer.rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let others: i64 = row.try_get("others")?;
    Ok(usize::try_from(others).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchanges_are_shared_with_those_who_were_seen_last() {
        let neighbours = Neighbours::default();
        let now = Instant::now();
        assert_eq!(neighbours.share_of(2, now), 2);
        for (others, share) in [(0, 6), (1, 3), (2, 2), (4, 1), (100, 1)] {
            neighbours.saw(Some(others), now);
            assert_eq!(neighbours.share_of(6, now), share, "with {others} others");
        }
        assert_eq!(neighbours.share_of(6, now + BELIEVED), 6, "long ago");
    }

    #[test]
    fn a_look_that_failed_is_not_repeated_soon() {
        let neighbours = Neighbours::default();
        let now = Instant::now();
        assert!(neighbours.is_due(now));
        neighbours.saw(Some(1), now);
        assert!(!neighbours.is_due(now));
        assert!(neighbours.is_due(now + INTERVAL));
        neighbours.saw(None, now);
        assert!(!neighbours.is_due(now + INTERVAL));
        assert!(neighbours.is_due(now + REST));
        assert_eq!(neighbours.share_of(2, now), 2);
    }
}
