-- Makes a connection wait for the write lock so briefly that it asks for it about every millisecond.
-- What is refused is sent again, for as long as lane.rs says.
--
-- Returns one row: timeout integer, in milliseconds.
-- Locks: none.
-- Index: none.
--
-- SQLite has no queue for its lock. A connection asks, and sleeps longer each time, up to 100
-- milliseconds: among others that write all the time it would wait for seconds.
pragma busy_timeout = 3
