-- Leases messages whose lease has expired. One statement of a claim, between begin.sql and
-- commit.sql.
--
-- $2 text  messages, as a JSON array of [id, token of the expired lease in hexadecimal, its end in
--          milliseconds since the Unix epoch, lease time of the new one in milliseconds]
-- $3 blob  token of the new leases
--
-- Returns the leased messages, in no order. One that was renewed, settled or taken since it was
-- found is left alone.
-- Locks: the write lock of its transaction.
-- Index: the primary key. "is" as in settle_delete.sql.
update {prefix}_message as m
set acquired_token   = $3,
    acquired_at      = {now},
    lease_expires_at = {now} + (taken.value ->> 3),
    -- Counts at their end stay there, as in claim_pending.sql.
    lease_losses     = min(m.lease_losses, 32766) + 1,
    deliveries       = min(m.deliveries, 2147483646) + 1
from json_each($2) as taken
where m.id = taken.value ->> 0
  and m.acquired_token is unhex(taken.value ->> 1)
  and m.lease_expires_at = taken.value ->> 2
returning id, queue, kind, payload, content_type, headers, priority, key, group_key, tag, attempts,
    max_attempts, deliveries, lease_losses, created_at, next_attempt_at as due_at,
    {now} as claimed_at, null as reason
