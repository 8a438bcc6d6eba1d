-- Reads due messages that have no lease, best first, as they will be once claim_pending.sql, the next
-- statement of the same transaction, has leased them.
--
-- $2 text     levels in the order in which they are served, as a JSON array of [queue, priority,
--             lease time in milliseconds]
-- $3 integer  how many messages at most
-- $4 integer  the time by which they are due, in milliseconds since the Unix epoch
--
-- Returns the messages, in the order of the levels, and within a level by due time and id.
-- Locks: the write lock of its transaction, without which what it reads could change.
-- Index: message_pending_idx, read in order; no sort at any backlog.
--
-- A statement of its own: with "returning", SQLite copies each row twice, and hands out the first of
-- them when the last is written. Both statements find the same messages: they have the same
-- conditions, bound to the same values, and read one state of the database in the same order.
--
-- The order is that of the loops: "cross join" keeps the levels outside, and within a level
-- "indexed by" reads by due time and id. An "order by" over both would sort every due message of
-- every level, since SQLite does not know that an array is read from its front.
select waiting.id, waiting.queue, kind, payload, content_type, headers, priority, waiting.key,
    group_key, tag, min(attempts, 32766) + 1 as attempts, max_attempts,
    min(deliveries, 2147483646) + 1 as deliveries, lease_losses, created_at,
    next_attempt_at as due_at, {now} as claimed_at
from json_each($2) as level
cross join {prefix}_message as waiting indexed by {prefix}_message_pending_idx
where waiting.queue = level.value ->> 0
  and waiting.priority = level.value ->> 1
  and waiting.acquired_token is null
  and waiting.next_attempt_at <= $4
limit $3
