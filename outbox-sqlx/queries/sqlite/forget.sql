-- Deletes a dead letter that revive.sql, in the same transaction, has made a message again.
--
-- $1 integer  id
--
-- Returns nothing.
-- Locks: the write lock of its transaction.
-- Index: the primary key.
delete from {prefix}_dead_letter
where message_id = $1
