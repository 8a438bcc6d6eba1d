-- Writes messages without keys, in the order of the arrays, in the caller's transaction.
--
-- $1 text[] queues, $2 text[] kinds, $3 bytea[] payloads, $4 text[] content types, $5 text[]
-- headers as JSON or null, $6 smallint[] priorities, $7 text[] groups or null, $8 text[] tags or
-- null, $9 smallint[] max attempts, $10 interval[] delays from now, $11 timestamptz[] due instants,
-- or null for the delay, $12 text channel, $13 boolean whether to wake workers. There are as many
-- messages as payloads; another array may have one entry, for all of them, or none where all are
-- null.
--
-- Returns id bigint of each message, in order; and announced bigint, the number of notifications:
-- one for each queue with a message that is due now.
-- Locks: the new messages.
-- Index: none.
--
-- The notifications depend on no row, so the server sends them once, for the first row that it
-- returns. They are not counted from the rows written, as where there are keys, because keeping
-- those for it costs a tenth of the whole.
insert into {schema}.message (
    queue, kind, payload, content_type, headers, priority, group_key, tag, max_attempts,
    next_attempt_at
)
select coalesce(queue, ($1::text[])[1]), coalesce(kind, ($2::text[])[1]), payload,
    coalesce(content_type, ($4::text[])[1]), headers::jsonb,
    coalesce(priority, ($6::smallint[])[1]), group_key, tag,
    coalesce(max_attempts, ($9::smallint[])[1]),
    coalesce(due_at, statement_timestamp() + coalesce(delay, ($10::interval[])[1]))
from unnest(
    $1::text[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::smallint[], $7::text[],
    $8::text[], $9::smallint[], $10::interval[], $11::timestamptz[]
) with ordinality as new (
    queue, kind, payload, content_type, headers, priority, group_key, tag, max_attempts, delay,
    due_at, place
)
order by place
returning id, case
    when $13::boolean then (
        select count(pg_notify($12::text, due.queue))
        from (
            select distinct coalesce(queue, ($1::text[])[1]) as queue
            from unnest($1::text[], $10::interval[], $11::timestamptz[]) as new (queue, delay, due_at)
            where coalesce(due_at, statement_timestamp() + coalesce(delay, ($10::interval[])[1]))
                <= statement_timestamp()
        ) as due
    )
end as announced
