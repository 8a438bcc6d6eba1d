-- Ends a transaction that wrote.
--
-- Returns nothing.
-- Locks: gives the write lock back.
-- Index: none.
commit
