-- Looks for a message that was not cancelled, in the caller's transaction.
--
-- $1 integer  id
--
-- Returns id integer, or no row where it is not there.
-- Locks: none.
-- Index: the primary key.
select id
from {prefix}_message
where id = $1
