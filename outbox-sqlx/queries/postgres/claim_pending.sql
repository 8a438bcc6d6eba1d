-- Leases due messages that have no lease, best first.
--
-- $1 uuid        token of the new leases
-- $2 text[]      queues, each repeated for every priority, in the order in which they are served
-- $3 smallint[]  priority of each entry of $2
-- $4 interval[]  lease time of each entry of $2
-- $5 bigint      how many messages at most
-- $6 timestamptz[], $7 bigint[]  the due time and id from which to read each entry of $2; null due
--                times for the beginning
--
-- Returns the leased messages, in no order.
-- Locks: the messages it leases; messages locked by others are skipped, never waited for.
-- Index: message_pending_idx, read in order; no sort at any backlog.
--
-- Reading on from a place passes the entries of messages that were taken before it, which vacuum
-- has not removed yet; the comparison of rows is a condition of the index, where one spelled out
-- with "or" would be a filter.
--
-- The arrays are unnested side by side in a list of columns: in "from" each would be stored as a
-- table first, which for one message took a sixth of the statement's time.
--
-- The array is computed once, so that no join order can lease more than the limit. A message that
-- changes between the snapshot and its lock is locked in its new version, whose ctid this
-- statement's snapshot does not see: it is left for the next claim, and never leased by mistake.
update {schema}.message as m
set acquired_token   = $1,
    acquired_at      = clock_timestamp(),
    lease_expires_at = clock_timestamp() + ($4::interval[])[array_position($2::text[], m.queue)],
    -- Other programs write messages too: a count at its end must not fail the claim.
    attempts         = least(m.attempts + 1, 32767),
    deliveries       = least(m.deliveries, 2147483646) + 1
where m.ctid = any (array(
    select due.ctid
    from (
        select unnest($2::text[]) as queue, unnest($3::smallint[]) as priority,
            unnest($6::timestamptz[]) as since, unnest($7::bigint[]) as since_id
    ) as level
    cross join lateral (
        select waiting.ctid
        from {schema}.message as waiting
        where waiting.queue = level.queue
          and waiting.priority = level.priority
          and waiting.acquired_token is null
          -- Not clock_timestamp(): it is volatile, and would filter every row instead of ending
          -- the index scan.
          and waiting.next_attempt_at <= statement_timestamp()
          and (waiting.next_attempt_at, waiting.id)
              >= (coalesce(level.since, '-infinity'), level.since_id)
        order by waiting.next_attempt_at, waiting.id
        limit $5
        for update skip locked
    ) as due
    limit $5
))
returning m.id, m.queue, m.kind, m.payload, m.content_type, m.headers::text as headers, m.priority,
    m.key, m.group_key, m.tag, m.attempts, m.max_attempts, m.deliveries, m.lease_losses,
    m.created_at, m.next_attempt_at as due_at,
    -- When it read: what has committed since was not seen.
    statement_timestamp() as claimed_at
