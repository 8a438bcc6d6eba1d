//! From rows to claimed messages, and the order in which these start.

use std::borrow::Cow;
use std::sync::Arc;

use outbox_core::{
    Claim, ClaimRequest, Claimed, DeadLettered, DeadReason, Held, LeaseToken, MessageId, QueueLease,
};

use crate::headers::headers_from;
use crate::timestamp::Timestamp;

/// What a row holds, in the types that are ours: each database has its own for the same columns. A
/// column is asked for by its name, or by its place where that is worth the trouble.
pub(crate) trait Fields {
    fn text<'n>(&self, column: impl Into<Column<'n>>) -> Result<Cow<'_, str>, sqlx::Error>;
    fn optional_text<'n>(
        &self,
        column: impl Into<Column<'n>>,
    ) -> Result<Option<Cow<'_, str>>, sqlx::Error>;
    fn bytes<'n>(&self, column: impl Into<Column<'n>>) -> Result<Vec<u8>, sqlx::Error>;
    fn id<'n>(&self, column: impl Into<Column<'n>>) -> Result<MessageId, sqlx::Error>;
    fn small<'n>(&self, column: impl Into<Column<'n>>) -> Result<i16, sqlx::Error>;
    fn deliveries<'n>(&self, column: impl Into<Column<'n>>) -> Result<u32, sqlx::Error>;
    fn instant<'n>(&self, column: impl Into<Column<'n>>) -> Result<Timestamp, sqlx::Error>;

    /// A count that the schema keeps from being negative.
    fn count<'n>(&self, column: impl Into<Column<'n>>) -> Result<u16, sqlx::Error> {
        Ok(u16::try_from(self.small(column)?).unwrap_or(0))
    }

    fn optional_string<'n>(
        &self,
        column: impl Into<Column<'n>>,
    ) -> Result<Option<String>, sqlx::Error> {
        Ok(self.optional_text(column)?.map(Cow::into_owned))
    }
}

/// Which column of a row.
#[derive(Clone, Copy)]
pub(crate) enum Column<'n> {
    Named(&'n str),
    At(usize),
}

impl<'n> From<&'n str> for Column<'n> {
    fn from(name: &'n str) -> Self {
        Self::Named(name)
    }
}

/// The columns that every claim returns, in this order on every database, so that no name is looked up
/// for a value of a message.
const COLUMNS: [&str; 17] = [
    "id",
    "queue",
    "kind",
    "payload",
    "content_type",
    "headers",
    "priority",
    "key",
    "group_key",
    "tag",
    "attempts",
    "max_attempts",
    "deliveries",
    "lease_losses",
    "created_at",
    "due_at",
    "claimed_at",
];

/// The place of a column, known when this is compiled.
const fn place(name: &str) -> Column<'static> {
    let mut at = 0;
    while !same(COLUMNS[at], name) {
        at += 1;
    }
    Column::At(at)
}

const fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// A leased message with what its batch is sorted by.
pub(crate) struct Leased {
    pub(crate) claimed: Claimed,
    pub(crate) priority: i16,
    pub(crate) due_at: Timestamp,
    /// By the database's clock, as the due time.
    #[cfg_attr(
        not(feature = "postgres"),
        expect(dead_code, reason = "only Postgres' watermarks ask")
    )]
    pub(crate) claimed_at: Timestamp,
}

/// Shares the few queue, kind and content type names of a batch.
#[derive(Default)]
pub(crate) struct Names(Vec<Arc<str>>);

impl Names {
    pub(crate) fn of_queues(queues: &[QueueLease]) -> Self {
        Self(queues.iter().map(|lease| lease.queue.clone()).collect())
    }

    fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| known.as_ref() == name) {
            return known.clone();
        }
        let new: Arc<str> = Arc::from(name);
        self.0.push(new.clone());
        new
    }
}

/// Reads a leased message.
pub(crate) fn leased(
    row: &impl Fields,
    token: LeaseToken,
    names: &mut Names,
) -> Result<Leased, sqlx::Error> {
    let held = Held {
        id: row.id(const { place("id") })?,
        token,
    };
    let queue = names.share(&row.text(const { place("queue") })?);
    let kind = names.share(&row.text(const { place("kind") })?);
    let created_at = row.instant(const { place("created_at") })?;
    let mut claimed = Claimed::new(held, queue, kind, row.bytes(const { place("payload") })?);
    claimed.content_type = names.share(&row.text(const { place("content_type") })?);
    claimed.headers = headers_from(row.optional_text(const { place("headers") })?.as_deref());
    claimed.attempt = row.count(const { place("attempts") })?;
    claimed.max_attempts = row.count(const { place("max_attempts") })?;
    claimed.lease_losses = row.count(const { place("lease_losses") })?;
    claimed.deliveries = row.deliveries(const { place("deliveries") })?;
    claimed.key = row.optional_string(const { place("key") })?;
    claimed.group = row.optional_string(const { place("group_key") })?;
    claimed.tag = row.optional_string(const { place("tag") })?;
    claimed.created_at = created_at.into();
    let claimed_at = row.instant(const { place("claimed_at") })?;
    claimed.age = claimed_at.since(created_at);
    Ok(Leased {
        claimed,
        priority: row.small(const { place("priority") })?,
        due_at: row.instant(const { place("due_at") })?,
        claimed_at,
    })
}

/// Reads a message that a claim turned into a dead letter; `None` for a leased one.
pub(crate) fn dead_lettered(
    row: &impl Fields,
    names: &mut Names,
) -> Result<Option<DeadLettered>, sqlx::Error> {
    let Some(reason) = row.optional_text("reason")? else {
        return Ok(None);
    };
    // The statement writes no other names.
    let reason = DeadReason::from_name(&reason).unwrap_or(DeadReason::Crashed);
    Ok(Some(DeadLettered::new(
        row.id("id")?,
        names.share(&row.text("queue")?),
        names.share(&row.text("kind")?),
        reason,
    )))
}

/// Reads the ids of rows.
pub(crate) fn ids_of<C, R: Fields>(rows: &[R]) -> Result<C, sqlx::Error>
where
    C: FromIterator<MessageId>,
{
    rows.iter().map(|row| row.id("id")).collect()
}

/// Puts messages in the order in which they start: that of the queues in the request, then
/// priority, due time and id.
pub(crate) fn sort_by_start(request: &ClaimRequest, messages: &mut [Leased]) {
    let start = |leased: &Leased| {
        let queue = place_of(request, &leased.claimed.queue);
        (queue, leased.priority, leased.due_at, leased.claimed.id)
    };
    // Most come as they lie in the table, where they were put in this order.
    if !messages.is_sorted_by_key(start) {
        messages.sort_by_cached_key(start);
    }
}

/// The place of a queue in a request, after all others for one that is not in it.
pub(crate) fn place_of(request: &ClaimRequest, queue: &str) -> usize {
    let place = request
        .queues
        .iter()
        .position(|lease| &*lease.queue == queue);
    place.unwrap_or(usize::MAX)
}

/// An answer of these messages.
pub(crate) fn claim_of(messages: Vec<Leased>) -> Claim {
    Claim::new(messages.into_iter().map(|leased| leased.claimed).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The statements whose rows are read by place, with the words before their columns. What
    /// `sqlite/pending` packs has no names: a test claims it.
    const CLAIMS: [(&str, &str); 7] = [
        ("postgres/claim_pending", "returning "),
        ("postgres/claim_clear", "returning "),
        ("postgres/claim_expired", ") select "),
        ("postgres/recover", "returning "),
        ("sqlite/large", "select "),
        ("sqlite/reclaim", "returning "),
        ("sqlite/recover", "returning "),
    ];

    #[test]
    fn every_claim_returns_its_columns_in_the_order_in_which_they_are_read() {
        for (name, before) in CLAIMS {
            let file = format!("{}/queries/{name}.sql", env!("CARGO_MANIFEST_DIR"));
            let sql = std::fs::read_to_string(file).expect("the file is there");
            let lines = sql.lines().filter(|line| !line.trim().starts_with("--"));
            let words: Vec<_> = lines.flat_map(str::split_whitespace).collect();
            let text = words.join(" ");
            let (_, columns) = text.rsplit_once(before).expect("it returns columns");
            // Not at the commas within parentheses.
            let mut depth = 0;
            let columns = columns.split(|letter| {
                depth += i32::from(letter == '(') - i32::from(letter == ')');
                letter == ',' && depth == 0
            });
            let name_of = |column: &'_ str| {
                let column = column.split(" from ").next().unwrap_or(column);
                let name = column.rsplit([' ', '.']).next().unwrap_or(column);
                name.to_owned()
            };
            let columns: Vec<_> = columns.take(COLUMNS.len()).map(name_of).collect();
            assert_eq!(columns, COLUMNS, "{name}");
        }
    }
}
