-- Writes messages in their order, in the caller's transaction, or between begin.sql and commit.sql.
--
-- Its text is completed in lot.rs, with one value after the other in the place of $1, $2, ..
-- fields    twelve expressions, each a value that all messages share or a column of their own: text
--           queue, kind and content type; text headers as JSON or null; integer priority; text key,
--           group and tag, or null; integer max attempts; integer due instant in milliseconds since
--           the Unix epoch, or null for the next; integer milliseconds from now; blob payload
-- messages  a list of their own values for each message
-- refused   what ends where a row is refused: "abort", the statement, in the transaction of a caller
--           who decides about the rest; "rollback", the transaction, so that its lock is not kept
--           until somebody reads the error
-- returned  id, and where any message has a key also queue and key
--
-- Returns one row for each message written: id integer, queue and key text. Messages whose queue
-- and key are live are left out.
-- Locks: the database's one write lock, until the transaction ends.
-- Index: message_key_idx as the arbiter.
--
-- Values, and not a JSON array, which takes several times as long: SQLite writes each object of the
-- array out as text, and reads it again.
with new (
    queue, kind, content_type, headers, priority, key, group_key, tag, max_attempts, due_at, delay,
    payload
) as (
    select {fields}
    from (values {messages})
)
insert or {refused} into {prefix}_message (
    queue, kind, content_type, headers, priority, key, group_key, tag, max_attempts, next_attempt_at,
    payload
)
select queue, kind, content_type, headers, priority, key, group_key, tag, max_attempts,
    coalesce(due_at, {now} + delay), payload
from new
-- Without it, "on conflict" reads as the condition of a join.
where true
on conflict (queue, key) where key is not null do nothing
returning {returned}
