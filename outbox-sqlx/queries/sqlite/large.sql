-- Reads large messages of a claim, which pending.sql has found and claim_pending.sql has leased.
--
-- $1 blob  token of the claim
-- $2 text  ids, as a JSON array
--
-- Returns these messages, as far as the token still holds them, in no order.
-- Locks: none.
-- Index: the primary key. "is" as in settle_delete.sql.
select m.id, queue, kind, payload, content_type, headers, priority, m.key, group_key, tag, attempts,
    max_attempts, deliveries, lease_losses, created_at, next_attempt_at as due_at,
    acquired_at as claimed_at
from json_each($2) as claimed
cross join {prefix}_message as m
where m.id = claimed.value
  and m.acquired_token is $1
