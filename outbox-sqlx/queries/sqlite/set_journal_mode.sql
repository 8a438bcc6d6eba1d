-- Makes the database keep a write-ahead log, for good: readers then never wait for the writer, nor
-- it for them.
--
-- Returns one row: journal_mode text, another one than "wal" where the file cannot have one.
-- Locks: the whole database, unless it has a write-ahead log already. Does not wait for it.
-- Index: none.
pragma journal_mode = wal
