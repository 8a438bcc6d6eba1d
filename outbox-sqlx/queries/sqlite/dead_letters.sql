-- Lists dead letters by id.
--
-- $1 text     queue, or null for all
-- $2 integer  the id after which the list goes on, 0 for its beginning
-- $3 integer  how many at most
--
-- Returns dead letters ordered by message_id.
-- Locks: none.
-- Index: the primary key; a queue with few dead letters among many reads past the others.
select message_id, queue, kind, payload, content_type, headers, priority, key, group_key, tag,
    attempts, max_attempts, deliveries, lease_losses, created_at, died_at, reason, last_error
from {prefix}_dead_letter
where message_id > $2
  and ($1 is null or queue = $1)
order by message_id
limit $3
