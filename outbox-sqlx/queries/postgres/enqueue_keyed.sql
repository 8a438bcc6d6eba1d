-- Writes messages of which some have keys, in the order of the arrays, in the caller's transaction.
--
-- $1 text[] queues, $2 text[] kinds, $3 bytea[] payloads, $4 text[] content types, $5 text[]
-- headers as JSON or null, $6 smallint[] priorities, $7 text[] keys or null, $8 text[] groups or
-- null, $9 text[] tags or null, $10 smallint[] max attempts, $11 interval[] delays from now,
-- $12 timestamptz[] due instants, or null for the delay, $13 text channel, $14 boolean whether to
-- wake workers. There are as many messages as payloads; another array may have one entry, for all
-- of them, or none where all are null.
--
-- Returns one row for each message written, in order: id bigint, and queue and key text where it
-- has a key. Messages whose queue and key are live are left out. announced bigint is the number
-- of notifications: one for each queue with a message that is due now.
-- Locks: the new messages; waits for a transaction that is writing or removing one of the keys.
-- Index: message_key_idx as the arbiter.
with written as (
    insert into {schema}.message (
        queue, kind, payload, content_type, headers, priority, key, group_key, tag, max_attempts,
        next_attempt_at
    )
    select coalesce(queue, ($1::text[])[1]), coalesce(kind, ($2::text[])[1]), payload,
        coalesce(content_type, ($4::text[])[1]), headers::jsonb,
        coalesce(priority, ($6::smallint[])[1]), key, group_key, tag,
        coalesce(max_attempts, ($10::smallint[])[1]),
        coalesce(due_at, statement_timestamp() + coalesce(delay, ($11::interval[])[1]))
    from unnest(
        $1::text[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::smallint[], $7::text[],
        $8::text[], $9::text[], $10::smallint[], $11::interval[], $12::timestamptz[]
    ) with ordinality as new (
        queue, kind, payload, content_type, headers, priority, key, group_key, tag, max_attempts,
        delay, due_at, place
    )
    order by place
    on conflict (queue, key) where key is not null do nothing
    returning id, queue, key, next_attempt_at
),
announced as (
    select pg_notify($13::text, due.queue)
    from (
        select distinct queue
        from written
        where $14::boolean and next_attempt_at <= statement_timestamp()
    ) as due
)
select id, case when key is not null then queue end as queue, key,
    (select count(*) from announced) as announced
from written
