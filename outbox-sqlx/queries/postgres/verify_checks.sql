-- Reads the CHECK constraints of a schema's tables.
--
-- $1 text  schema
--
-- Returns table_name, predicate text.
-- Locks: none.
-- Index: the catalogue's own.
select c.relname::text as table_name, pg_get_expr(k.conbin, k.conrelid) as predicate
from pg_constraint as k
join pg_class as c on c.oid = k.conrelid
join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = $1 and k.contype = 'c'
order by c.relname, k.conname
