-- Reads where the database is kept.
--
-- Returns one row: file text, empty for a database in memory and for a temporary one.
-- Locks: none.
-- Index: none.
select file
from pragma_database_list
where name = 'main'
