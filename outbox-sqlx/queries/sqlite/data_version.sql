-- Reads a number that changes when any other connection, of this process or another, commits a
-- change of the database.
--
-- Returns one row: data_version integer.
-- Locks: none.
-- Index: none; it reads the first page of the write-ahead log's index, and no table.
pragma data_version
