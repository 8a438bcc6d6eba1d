-- Asks whether the server is a standby, which accepts no writes.
--
-- Returns one row: standby boolean.
-- Locks: none.
-- Index: none.
select pg_is_in_recovery() as standby
