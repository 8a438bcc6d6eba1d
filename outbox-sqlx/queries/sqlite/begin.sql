-- Begins a transaction that writes.
--
-- Returns nothing.
-- Locks: the database's one write lock, at once: a transaction that read before it wrote could not
-- go on after somebody else's commit. Waits for the lock as long as the connection's busy_timeout.
-- Index: none.
begin immediate
