-- Deletes a message that nobody holds, in the caller's transaction.
--
-- $1 integer  id
--
-- Returns id integer, or no row where it was not deleted: it is held, or not there.
-- Locks: the database's one write lock, until the caller's transaction ends.
-- Index: the primary key.
delete from {prefix}_message
where id = $1
  and (acquired_token is null or lease_expires_at <= {now})
returning id
