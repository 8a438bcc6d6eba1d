-- Makes a dead letter a message again: same id, attempts and losses from zero, due now. One
-- statement of that, between begin.sql and commit.sql; forget.sql deletes the dead letter.
--
-- $1 integer  id
--
-- Returns id integer, or no row where there is no such dead letter. Fails with 2067, and ends the
-- transaction, where a live message has its key, or with 1555 its id.
-- Locks: the write lock of its transaction.
-- Index: the primary key of dead_letter.
--
-- The deliveries are kept: handlers use them as a fence that only grows.
insert or rollback into {prefix}_message (
    id, queue, kind, payload, content_type, headers, priority, key, group_key, tag, max_attempts,
    deliveries, created_at, next_attempt_at, last_error
)
select message_id, queue, kind, payload, content_type, headers, priority, key, group_key, tag,
    max_attempts, deliveries, created_at, {now}, last_error
from {prefix}_dead_letter
where message_id = $1
returning id
