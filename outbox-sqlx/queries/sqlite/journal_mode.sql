-- Reads how the database keeps its journal.
--
-- Returns one row: journal_mode text, "wal" for a write-ahead log.
-- Locks: none.
-- Index: none.
pragma journal_mode
