-- Says what is due, and how long a worker may sleep.
--
-- $1 text  queues, as a JSON array
--
-- Returns a row for each queue and priority with a message that has no lease, and one for each
-- queue with a lease: place integer, of the queue in the array; priority integer, null for the
-- leases; wait integer, milliseconds until the first of these is due, or ends: 0 where it is past,
-- and 100 years where it is later than that; asked_at integer, now, in milliseconds since the Unix
-- epoch.
-- Locks: none.
-- Index: the first entry of message_pending_idx for each queue and priority, and of
-- message_lease_idx for each queue.
--
-- The bounds are for other programs, which may write any integer as a time.
with level (priority) as (values (-3), (-2), (-1), (0), (1), (2), (3)),
found (place, priority, at) as materialized (
    select served.key, level.priority, (
        select m.next_attempt_at
        from {prefix}_message as m
        where m.queue = served.value and m.priority = level.priority and m.acquired_token is null
        order by m.next_attempt_at
        limit 1
    )
    from json_each($1) as served
    cross join level
    union all
    select served.key, null, (
        select m.lease_expires_at
        from {prefix}_message as m
        where m.queue = served.value and m.acquired_token is not null
        order by m.lease_expires_at
        limit 1
    )
    from json_each($1) as served
)
select place, priority, min(max(at, {now}), {now} + 3155760000000) - {now} as wait,
    {now} as asked_at
from found
where at is not null
