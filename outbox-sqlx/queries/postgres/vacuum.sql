-- Removes what settled messages have left in the table and its indexes.
--
-- Returns no rows.
-- Locks: the table, against other vacuums and changes of its shape alone; skipped where somebody has
-- locked it so.
-- Index: all of them are read whole.
--
-- Without truncation, which waits for a lock that holds up everybody. Indexes always: their entries
-- are what makes claims slow. In this process alone: parallel workers would be taken from the claims.
vacuum (skip_locked, truncate false, index_cleanup true, parallel 0) {schema}.message
