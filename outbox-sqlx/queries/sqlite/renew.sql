-- Renews leases.
--
-- $1 text  leases, as a JSON array of [id, token in hexadecimal, milliseconds from now for which
--          each shall hold]
--
-- Returns id integer of those whose token still held; none of them ends earlier than before.
-- Locks: the database's one write lock, for this statement.
-- Index: the primary key. "is" as in settle_delete.sql.
update {prefix}_message as m
set lease_expires_at = max(m.lease_expires_at, {now} + (renewal.value ->> 2))
from json_each($1) as renewal
where m.id = renewal.value ->> 0
  and m.acquired_token is unhex(renewal.value ->> 1)
returning id
