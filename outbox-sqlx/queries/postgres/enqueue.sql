-- Writes one message, in the caller's transaction.
--
-- $1 text queue, $2 text kind, $3 bytea payload, $4 text content type, $5 text headers as JSON or
-- null, $6 smallint priority, $7 text key or null, $8 text group or null, $9 text tag or null,
-- $10 smallint max attempts, $11 interval delay from now, $12 timestamptz due instant, or null for
-- the delay, $13 text channel, $14 boolean whether to wake workers
--
-- Returns id bigint, or no row where a live message of the same queue and key exists; and
-- announced bigint, the number of notifications.
-- Locks: the new message; waits for a transaction that is writing or removing the same key.
-- Index: message_key_idx as the arbiter.
--
-- A conflict is no error, so that the caller's transaction goes on. The notification is sent by
-- the server when the caller commits, and not at all for messages of the future.
with written as (
    insert into {schema}.message (
        queue, kind, payload, content_type, headers, priority, key, group_key, tag, max_attempts,
        next_attempt_at
    )
    values (
        $1, $2, $3, $4, $5::text::jsonb, $6, $7, $8, $9, $10,
        coalesce($12::timestamptz, statement_timestamp() + $11::interval)
    )
    on conflict (queue, key) where key is not null do nothing
    returning id, queue, next_attempt_at
),
announced as (
    select pg_notify($13::text, queue)
    from written
    where $14::boolean and next_attempt_at <= statement_timestamp()
)
-- Counting them is what makes the server run them: an unread select is never executed.
select written.id, (select count(*) from announced) as announced
from written
