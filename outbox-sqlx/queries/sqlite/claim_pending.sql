-- Leases due messages that have no lease, best first: those that pending.sql, in the same
-- transaction, has read.
--
-- $1 blob     token of the new leases
-- $2, $3, $4  as in pending.sql
--
-- Returns nothing.
-- Locks: the write lock of its transaction.
-- Index: message_pending_idx, as in pending.sql, and the primary key.
with lease (queue, time) as materialized (
    select level.value ->> 0, level.value ->> 2
    from json_each($2) as level
)
update {prefix}_message
set acquired_token   = $1,
    acquired_at      = {now},
    lease_expires_at = {now} + (
        select lease.time from lease where lease.queue = {prefix}_message.queue limit 1
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
      and waiting.next_attempt_at <= $4
    limit $3
)
