-- Deletes the message of a key if nobody holds it, in the caller's transaction.
--
-- $1 text  queue
-- $2 text  key
--
-- Returns id integer, or no row where it was not deleted: it is held, or not there.
-- Locks: the database's one write lock, until the caller's transaction ends.
-- Index: message_key_idx.
delete from {prefix}_message
where queue = $1
  and key = $2
  and (acquired_token is null or lease_expires_at <= {now})
returning id
