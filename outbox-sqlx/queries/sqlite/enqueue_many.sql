-- Writes messages in their order, in the caller's transaction.
--
-- $1 text  messages, as a JSON array of objects: queue, kind, content_type, headers as JSON text or
--          null, priority, key or null, group or null, tag or null, max_attempts, delay in
--          milliseconds from now, due_at in milliseconds since the Unix epoch or null for the
--          delay; start and length of the payload within $2, in bytes, the first byte being 1
-- $2 blob  the payloads, one after the other: JSON has no bytes
--
-- Returns one row for each message written: id integer, queue and key text. Messages whose queue
-- and key are live are left out.
-- Locks: the database's one write lock, until the caller's transaction ends.
-- Index: message_key_idx as the arbiter.
insert into {prefix}_message (
    queue, kind, payload, content_type, headers, priority, key, group_key, tag, max_attempts,
    next_attempt_at
)
select new.value ->> 'queue', new.value ->> 'kind',
    substr($2, new.value ->> 'start', new.value ->> 'length'), new.value ->> 'content_type',
    new.value ->> 'headers', new.value ->> 'priority', new.value ->> 'key', new.value ->> 'group',
    new.value ->> 'tag', new.value ->> 'max_attempts',
    coalesce(new.value ->> 'due_at', {now} + (new.value ->> 'delay'))
from json_each($1) as new
-- Without it, "on conflict" reads as the condition of a join.
where true
order by new.key
on conflict (queue, key) where key is not null do nothing
returning id, queue, key
