//! The insert of many messages. Its text depends on them: what is the same in all of a lot is sent
//! once, and the rest as rows of values.

use std::borrow::Cow;

use outbox_core::NewMessage;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments};

use super::codec::due;
use crate::batch::Batch;
use crate::headers::headers_json;
use crate::name::ready;
use crate::statements::SqliteStatements;

/// Messages of one statement. More of them are no faster, and SQLite takes 32,766 values at most.
const LOT: usize = 500;
/// Fields of a message, but for the payload, which is always of its own.
const FIELDS: usize = 11;

/// The inserts of a batch, in the caller's transaction, of at most [`LOT`] messages each.
pub(super) fn inserts<'q>(
    statements: &SqliteStatements,
    batch: &Batch<'_>,
) -> Vec<Query<'q, Sqlite, SqliteArguments>> {
    let lots = lots(batch);
    let inserts = lots.iter().map(|lot| {
        let text = lot.text(statements, "abort");
        // A full lot is followed by others like it: its statement is kept.
        let keep = lot.messages.len() == LOT;
        lot.bind(sqlx::query(ready([text])).persistent(keep))
    });
    inserts.collect()
}

/// The inserts of a batch as a transaction of its own.
pub(super) fn transaction<'q>(
    statements: &SqliteStatements,
    batch: &Batch<'_>,
) -> Query<'q, Sqlite, SqliteArguments> {
    let lots = lots(batch);
    let begin = std::iter::once(statements.begin.as_str().to_owned());
    let inserts = lots.iter().map(|lot| lot.text(statements, "rollback"));
    let commit = std::iter::once(statements.commit.as_str().to_owned());
    let all = begin.chain(inserts).chain(commit);
    let text = ready(all.map(|statement| statement + ";\n"));
    let query = sqlx::query(text).persistent(false);
    lots.iter().fold(query, |query, lot| lot.bind(query))
}

fn lots<'m>(batch: &Batch<'m>) -> Vec<Lot<'m>> {
    let messages: Vec<_> = batch.tried().map(|new| (new, fields(new))).collect();
    // The rows of all lots are matched together, so they have the same columns.
    let returned = if batch.tried().any(|new| new.key.is_some()) {
        "id, queue, key"
    } else {
        "id"
    };
    let lots = messages.chunks(LOT);
    lots.map(|messages| Lot::new(messages.to_vec(), returned))
        .collect()
}

/// A field as SQLite keeps it.
#[derive(Clone, PartialEq)]
enum Value<'m> {
    Null,
    Integer(i64),
    Text(Cow<'m, str>),
}

impl Value<'_> {
    fn bind<'q>(
        &self,
        query: Query<'q, Sqlite, SqliteArguments>,
    ) -> Query<'q, Sqlite, SqliteArguments> {
        match self {
            Self::Null => query.bind(None::<i64>),
            Self::Integer(number) => query.bind(*number),
            Self::Text(text) => query.bind(text.as_ref()),
        }
    }
}

impl<'m> From<Option<&'m String>> for Value<'m> {
    fn from(text: Option<&'m String>) -> Self {
        text.map_or(Self::Null, |text| Self::Text(Cow::from(text)))
    }
}

fn fields(new: &NewMessage) -> [Value<'_>; FIELDS] {
    let (delay, due_at) = due(new);
    [
        Value::Text(Cow::from(&*new.queue)),
        Value::Text(Cow::from(&*new.kind)),
        Value::Text(Cow::from(&*new.content_type)),
        headers_json(&new.headers).map_or(Value::Null, |json| Value::Text(Cow::from(json))),
        Value::Integer(new.priority.into()),
        Value::from(new.key.as_ref()),
        Value::from(new.group.as_ref()),
        Value::from(new.tag.as_ref()),
        Value::Integer(new.max_attempts.into()),
        due_at.map_or(Value::Null, Value::Integer),
        Value::Integer(delay),
    ]
}

/// The messages of one statement.
struct Lot<'m> {
    /// Each with its fields, in the order of `enqueue_many.sql`.
    messages: Vec<(&'m NewMessage, [Value<'m>; FIELDS])>,
    /// Whether a field is the same in all of them.
    shared: [bool; FIELDS],
    returned: &'static str,
}

impl<'m> Lot<'m> {
    fn new(messages: Vec<(&'m NewMessage, [Value<'m>; FIELDS])>, returned: &'static str) -> Self {
        let first = messages.first().map(|(_, fields)| fields);
        let shared = std::array::from_fn(|field| {
            let value = first.map(|fields| &fields[field]);
            messages
                .iter()
                .all(|(_, fields)| Some(&fields[field]) == value)
        });
        Self {
            messages,
            shared,
            returned,
        }
    }

    fn text(&self, statements: &SqliteStatements, refused: &str) -> String {
        let mut columns = 0;
        let mut column = || {
            columns += 1;
            format!("column{columns}")
        };
        let shared = self.shared.iter();
        let mut fields: Vec<String> = shared
            .map(|shared| if *shared { "?".to_owned() } else { column() })
            .collect();
        fields.push(column());
        let message = format!("({})", vec!["?"; columns].join(", "));
        let messages = vec![message.as_str(); self.messages.len()];
        let text = statements.enqueue_many.as_str();
        text.replace("{fields}", &fields.join(", "))
            .replace("{messages}", &messages.join(", "))
            .replace("{refused}", refused)
            .replace("{returned}", self.returned)
    }

    fn bind<'q>(
        &self,
        query: Query<'q, Sqlite, SqliteArguments>,
    ) -> Query<'q, Sqlite, SqliteArguments> {
        let some = |fields: &[Value<'_>; FIELDS], shared: bool, query| {
            let values = fields.iter().zip(self.shared);
            let values = values.filter(|(_, of_all)| *of_all == shared);
            values.fold(query, |query, (value, _)| value.bind(query))
        };
        let query = match self.messages.first() {
            Some((_, fields)) => some(fields, true, query),
            None => query,
        };
        self.messages.iter().fold(query, |query, (new, fields)| {
            some(fields, false, query).bind(new.payload.clone())
        })
    }
}
