-- Looks for the message of a key that was not cancelled, in the caller's transaction.
--
-- $1 text  queue
-- $2 text  key
--
-- Returns id integer, or no row where it is not there.
-- Locks: none.
-- Index: message_key_idx.
select id
from {prefix}_message
where queue = $1
  and key = $2
