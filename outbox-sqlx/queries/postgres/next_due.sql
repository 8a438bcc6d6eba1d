-- Says how long a worker may sleep.
--
-- $1 text[]      queues, each repeated for every priority
-- $2 smallint[]  priority of each entry of $1
-- $3 text[]      queues whose leases are looked at, once each
-- $4 timestamptz[], $5 bigint[]  the due time and id from which to read each entry of $1; null due
--                times for the beginning
--
-- Returns one row: asked_at timestamptz, the time of this statement; due_in bigint, microseconds
-- until the first message without a lease is due, and expires_in bigint, microseconds until the
-- first lease ends; null where there is none, 0 where it is past, and 100 years where it is later
-- than that.
-- Locks: none.
-- Index: the first entry of message_pending_idx for each queue and priority, and of
-- message_lease_idx for each queue.
--
-- The arrays of the levels are unnested as in claim_pending.sql.
--
-- The bounds are for other programs, which may write times from which nothing can be subtracted:
-- infinity, and the ends of the calendar.
select
    statement_timestamp() as asked_at,
    (
        select (
            extract(epoch from min(
                least(
                    greatest(first.next_attempt_at, statement_timestamp()),
                    statement_timestamp() + interval '100 years'
                )
            ) - statement_timestamp()) * 1000000
        )::bigint
        from (
            select unnest($1::text[]) as queue, unnest($2::smallint[]) as priority,
                unnest($4::timestamptz[]) as since, unnest($5::bigint[]) as since_id
        ) as level
        cross join lateral (
            select m.next_attempt_at
            from {schema}.message as m
            where m.queue = level.queue
              and m.priority = level.priority
              and m.acquired_token is null
              and (m.next_attempt_at, m.id) >= (coalesce(level.since, '-infinity'), level.since_id)
            order by m.next_attempt_at, m.id
            limit 1
        ) as first
    ) as due_in,
    (
        select (
            extract(epoch from min(
                least(
                    greatest(first.lease_expires_at, statement_timestamp()),
                    statement_timestamp() + interval '100 years'
                )
            ) - statement_timestamp()) * 1000000
        )::bigint
        from unnest($3::text[]) as served (queue)
        cross join lateral (
            select m.lease_expires_at
            from {schema}.message as m
            where m.queue = served.queue and m.acquired_token is not null
            order by m.lease_expires_at, m.id
            limit 1
        ) as first
    ) as expires_in
