//! Many messages as the arrays of `enqueue_many.sql` and `enqueue_keyed.sql`.

use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;

use crate::batch::Batch;
use crate::headers::headers_json;
use crate::producer::{due, max_attempts};
use crate::statements::Statements;
use crate::timestamp::Timestamp;

/// One array for each column. That of the payloads has an entry for each message that is tried;
/// another has one for all where they are the same, as in most batches, and none where all are
/// null: to fill, send and take apart a dozen arrays costs more than the insert.
pub(crate) struct Columns<'m> {
    queues: Vec<&'m str>,
    kinds: Vec<&'m str>,
    payloads: Vec<&'m [u8]>,
    content_types: Vec<&'m str>,
    headers: Vec<Option<String>>,
    priorities: Vec<i16>,
    keys: Vec<Option<&'m str>>,
    groups: Vec<Option<&'m str>>,
    tags: Vec<Option<&'m str>>,
    max_attempts: Vec<i16>,
    delays: Vec<PgInterval>,
    due_at: Vec<Option<Timestamp>>,
}

impl<'m> Columns<'m> {
    pub(crate) fn new(batch: &Batch<'m>) -> Self {
        let all = || batch.tried();
        Self {
            queues: one_or_all(all().map(|new| new.queue.as_ref())),
            kinds: one_or_all(all().map(|new| new.kind.as_ref())),
            payloads: all().map(|new| new.payload.as_slice()).collect(),
            content_types: one_or_all(all().map(|new| new.content_type.as_ref())),
            headers: none_or_all(all().map(|new| headers_json(&new.headers))),
            priorities: one_or_all(all().map(|new| new.priority)),
            keys: none_or_all(all().map(|new| new.key.as_deref())),
            groups: none_or_all(all().map(|new| new.group.as_deref())),
            tags: none_or_all(all().map(|new| new.tag.as_deref())),
            max_attempts: one_or_all(all().map(max_attempts)),
            delays: one_or_all(all().map(|new| due(new).0)),
            due_at: none_or_all(all().map(|new| due(new).1)),
        }
    }

    pub(crate) fn query<'q>(
        &'q self,
        statements: &Statements,
        channel: &'q str,
        wake: bool,
    ) -> Query<'q, Postgres, PgArguments> {
        let has_keys = !self.keys.is_empty();
        let statement = match has_keys {
            true => &statements.enqueue_keyed,
            false => &statements.enqueue_many,
        };
        let mut query = sqlx::query(statement.clone())
            .bind(&self.queues)
            .bind(&self.kinds)
            .bind(&self.payloads)
            .bind(&self.content_types)
            .bind(&self.headers)
            .bind(&self.priorities);
        if has_keys {
            query = query.bind(&self.keys);
        }
        query
            .bind(&self.groups)
            .bind(&self.tags)
            .bind(&self.max_attempts)
            .bind(&self.delays)
            .bind(&self.due_at)
            .bind(channel)
            .bind(wake)
    }
}

/// All values, or the first where all are equal to it.
fn one_or_all<T: PartialEq>(values: impl Iterator<Item = T> + Clone) -> Vec<T> {
    let mut rest = values.clone();
    match rest.next() {
        Some(first) if rest.all(|value| value == first) => vec![first],
        _ => values.collect(),
    }
}

/// All values, or nothing where there is none.
fn none_or_all<T>(values: impl Iterator<Item = Option<T>> + Clone) -> Vec<Option<T>> {
    if values.clone().all(|value| value.is_none()) {
        return Vec::new();
    }
    values.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_sent_once_and_others_all() {
        assert_eq!(one_or_all(["a", "a", "a"].into_iter()), ["a"]);
        assert_eq!(one_or_all(["a", "b", "a"].into_iter()), ["a", "b", "a"]);
        assert_eq!(one_or_all(["a"].into_iter()), ["a"]);
        assert!(one_or_all(std::iter::empty::<i16>()).is_empty());
    }

    #[test]
    fn values_that_nobody_has_are_not_sent() {
        assert!(none_or_all([None::<i16>, None].into_iter()).is_empty());
        let some = [None, Some(1)];
        assert_eq!(none_or_all(some.into_iter()), some);
    }
}
