-- Waits until nobody else uses the database.
--
-- Returns nothing.
-- Locks: the whole database, and not only for writing. Waits for it as long as the connection's
-- busy_timeout.
-- Index: none.
begin exclusive
