-- Leases due messages that have no lease, best first. One statement of a claim, between begin.sql
-- and commit.sql.
--
-- $1 blob     token of the new leases
-- $2 text     levels in the order in which they are served, as a JSON array of [queue, priority,
--             lease time in milliseconds]
-- $3 integer  how many messages at most
--
-- Returns the leased messages, in no order.
-- Locks: the write lock of its transaction.
-- Index: message_pending_idx, read in order; no sort at any backlog.
--
-- The order is that of the loops: "cross join" keeps the levels outside, and within a level
-- "indexed by" reads by due time and id. An "order by" over both would sort every due message of
-- every level, since SQLite does not know that an array is read from its front.
update {prefix}_message
set acquired_token   = $1,
    acquired_at      = {now},
    lease_expires_at = {now} + (
        select level.value ->> 2
        from json_each($2) as level
        where level.value ->> 0 = queue
        limit 1
    ),
    -- Other programs write messages too: a count at its end must not fail the claim.
    attempts         = min(attempts, 32766) + 1,
    deliveries       = min(deliveries, 2147483646) + 1
where id in (
    select waiting.id
    from json_each($2) as level
    cross join {prefix}_message as waiting indexed by {prefix}_message_pending_idx
    where waiting.queue = level.value ->> 0
      and waiting.priority = level.value ->> 1
      and waiting.acquired_token is null
      and waiting.next_attempt_at <= {now}
    limit $3
)
returning id, queue, kind, payload, content_type, headers, priority, key, group_key, tag, attempts,
    max_attempts, deliveries, lease_losses, created_at, next_attempt_at as due_at,
    {now} as claimed_at
