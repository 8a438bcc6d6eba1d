-- Copies messages to the dead letters; remove.sql, in the same transaction, deletes them.
--
-- $1 text  messages, as a JSON array of [id, token in hexadecimal, reason, error or null to keep
--          the one before, and where the lease has expired, which counts as a loss, its end in
--          milliseconds since the Unix epoch, else null]
--
-- Returns nothing.
-- Locks: the write lock of its transaction. "or rollback" ends that transaction at once if a
-- constraint fails, so that the lock is not kept until somebody reads the error.
-- Index: the primary key. "is" as in settle_delete.sql.
--
-- An id is taken only where ids began again, as after a change of sqlite_sequence: then both dead
-- letters are kept, and this one takes an id past all of them.
insert or rollback into {prefix}_dead_letter (
    message_id, queue, kind, content_type, priority, key, group_key, tag, attempts, max_attempts,
    deliveries, lease_losses, created_at, died_at, reason, last_error, headers, payload
)
select
    iif(
        exists (select 1 from {prefix}_dead_letter as d where d.message_id = m.id),
        m.id + max(
            (select max(d.message_id) from {prefix}_dead_letter as d),
            (select max(other.value ->> 0) from json_each($1) as other)
        ),
        m.id
    ),
    m.queue, m.kind, m.content_type, m.priority, m.key, m.group_key, m.tag, m.attempts,
    m.max_attempts, m.deliveries, min(m.lease_losses + (letter.value ->> 4 is not null), 32767),
    m.created_at, {now}, letter.value ->> 2, coalesce(letter.value ->> 3, m.last_error), m.headers,
    m.payload
from json_each($1) as letter
cross join {prefix}_message as m
where m.id = letter.value ->> 0
  and m.acquired_token is unhex(letter.value ->> 1)
  and (letter.value ->> 4 is null or m.lease_expires_at = letter.value ->> 4)
