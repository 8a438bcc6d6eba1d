-- Reads due messages that have no lease, best first, as they will be once claim_pending.sql, the next
-- statement of the same transaction, has leased them.
--
-- $2 text     levels in the order in which they are served, as a JSON array of [queue, priority,
--             lease time in milliseconds]
-- $3 integer  how many messages at most
-- $4 integer  the time by which they are due, in milliseconds since the Unix epoch
--
-- Returns one row: messages text, with a line of JSON for each message: an array of its columns, in
-- the order of those of large.sql and the payload in hexadecimal; or where it has more than 1 KiB its
-- id alone, by which large.sql then reads it. In the order of the levels, and within a level by due
-- time and id.
-- Locks: the write lock of its transaction, without which what it reads could change.
-- Index: message_pending_idx, read in order; no sort at any backlog.
--
-- One row, because each is handed from thread to thread, and each of its values is copied on its
-- own: that took longer than the reading. A large message is cheaper in a row, and a text has a limit.
--
-- A statement of its own: with "returning", SQLite copies each row twice, and hands out the first of
-- them when the last is written. Both statements find the same messages: they have the same
-- conditions, bound to the same values, and read one state of the database in the same order.
--
-- The order is that of the loops: "cross join" keeps the levels outside, and within a level
-- "indexed by" reads by due time and id. An "order by" over both would sort every due message of
-- every level, since SQLite does not know that an array is read from its front.
select coalesce(group_concat(message, char(10)), '') as messages
from (
    select iif(
        -- Of a column alone, octet_length() does not read what it measures.
        octet_length(payload) + coalesce(octet_length(headers), 0)
            + coalesce(octet_length(waiting.key), 0) + coalesce(octet_length(group_key), 0)
            + coalesce(octet_length(tag), 0) + octet_length(content_type) <= 1024,
        json_array(
            waiting.id, waiting.queue, kind, hex(payload), content_type, headers, priority,
            waiting.key, group_key, tag, min(attempts, 32766) + 1, max_attempts,
            min(deliveries, 2147483646) + 1, lease_losses, created_at, next_attempt_at, {now}
        ),
        waiting.id
    ) as message
    from json_each($2) as level
    cross join {prefix}_message as waiting indexed by {prefix}_message_pending_idx
    where waiting.queue = level.value ->> 0
      and waiting.priority = level.value ->> 1
      and waiting.acquired_token is null
      and waiting.next_attempt_at <= $4
    limit $3
) as claimable
