-- Finds messages of a queue whose lease has expired, without taking them.
--
-- $1 text     queue
-- $2 integer  how many at most
--
-- Returns them, the one whose lease ended first in front: id, lease_expires_at, lease_losses,
-- attempts, max_attempts integer; token text, that of the lease in hexadecimal.
-- Locks: none.
-- Index: message_lease_idx, read in order.
select id, hex(acquired_token) as token, lease_expires_at, lease_losses, attempts, max_attempts
from {prefix}_message
where queue = $1
  and acquired_token is not null
  and lease_expires_at <= {now}
order by lease_expires_at, id
limit $2
