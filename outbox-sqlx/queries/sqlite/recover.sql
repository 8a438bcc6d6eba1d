-- Begins leases anew, for a claim whose reply was lost. One statement of that, between begin.sql
-- and commit.sql.
--
-- $1 blob  token that holds them
-- $2 text  messages, as a JSON array of [id, lease time in milliseconds]
--
-- Returns these messages, as far as the token still holds them, in no order.
-- Locks: the write lock of its transaction.
-- Index: the primary key. "is" as in settle_delete.sql.
update {prefix}_message as m
set acquired_at      = {now},
    lease_expires_at = {now} + (kept.value ->> 1)
from json_each($2) as kept
where m.id = kept.value ->> 0
  and m.acquired_token is $1
returning id, queue, kind, payload, content_type, headers, priority, key, group_key, tag, attempts,
    max_attempts, deliveries, lease_losses, created_at, next_attempt_at as due_at,
    {now} as claimed_at
