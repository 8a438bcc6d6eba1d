-- Makes messages available again: retry, snooze, release. One statement of a settle, between
-- begin.sql and commit.sql.
--
-- $3 text  messages, as a JSON array of [id, token in hexadecimal, milliseconds from now or null to
--          keep the due time, 1 where the attempt is refunded or 0, 1 where the losses start again
--          at zero or 0, the error to keep or null to keep the one before]
--
-- Returns id integer of those whose token still held.
-- Locks: the write lock of its transaction.
-- Index: the primary key. "is" as in settle_delete.sql.
update {prefix}_message as m
set acquired_token   = null,
    acquired_at      = null,
    lease_expires_at = null,
    next_attempt_at  = coalesce({now} + (settled.value ->> 2), m.next_attempt_at),
    attempts         = max(m.attempts - (settled.value ->> 3), 0),
    lease_losses     = iif(settled.value ->> 4, 0, m.lease_losses),
    last_error       = coalesce(settled.value ->> 5, m.last_error)
from json_each($3) as settled
where m.id = settled.value ->> 0
  and m.acquired_token is unhex(settled.value ->> 1)
returning id
