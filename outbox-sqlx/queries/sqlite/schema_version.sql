-- Reads the version of the schema.
--
-- Returns one row: version integer, null where the table is empty. Fails with "no such table" where
-- the schema is absent.
-- Locks: none.
-- Index: the primary key of schema_version.
select max(version) as version
from {prefix}_schema_version
