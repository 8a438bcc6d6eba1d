-- Reads the storage options of a schema's tables.
--
-- $1 text  schema
--
-- Returns table_name, name, value text.
-- Locks: none.
-- Index: the catalogue's own.
select c.relname::text as table_name, o.option_name as name, o.option_value as value
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
cross join pg_options_to_table(c.reloptions) as o
where n.nspname = $1 and c.relkind in ('r', 'p')
order by c.relname, o.option_name
