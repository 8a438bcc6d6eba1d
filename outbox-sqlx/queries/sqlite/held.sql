-- Finds the leases of a claim whose reply was lost. Between begin.sql and commit.sql, so that it
-- waits for that claim where it is still at its commit.
--
-- $1 blob  token of that claim
-- $2 text  its queues, as a JSON array
--
-- Returns what the token holds, in no order: id, priority, next_attempt_at integer, queue text.
-- Locks: the write lock of its transaction.
-- Index: message_lease_idx for the leases, all of those queues, which a lost reply is rare enough
-- for.
select m.id, m.queue, m.priority, m.next_attempt_at
from json_each($2) as served
cross join {prefix}_message as m indexed by {prefix}_message_lease_idx
where m.queue = served.value
  and m.acquired_token is not null
  and m.acquired_token = $1
