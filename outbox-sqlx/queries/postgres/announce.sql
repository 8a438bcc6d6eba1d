-- Wakes the workers of queues, after a commit.
--
-- $1 text    channel
-- $2 text[]  queues
--
-- Returns one row: announced bigint, the number of notifications.
-- Locks: none of its own; a commit with notifications takes the server's notification lock.
-- Index: none.
select count(pg_notify($1::text, due.queue)) as announced
from (select distinct queue from unnest($2::text[]) as asked (queue)) as due
