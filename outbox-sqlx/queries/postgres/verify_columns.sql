-- Reads the columns of a schema's tables.
--
-- $1 text  schema
--
-- Returns table_name, column_name, type text; not_null, fills_itself boolean: whether a default, an
-- identity or a generated value makes up for an insert without it; default_value text or null.
-- Locks: none.
-- Index: the catalogue's own.
select c.relname::text as table_name, a.attname::text as column_name,
    format_type(a.atttypid, a.atttypmod) as type, a.attnotnull as not_null,
    (a.attidentity <> '' or a.attgenerated <> '' or d.oid is not null) as fills_itself,
    pg_get_expr(d.adbin, d.adrelid) as default_value
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef as d on d.adrelid = c.oid and d.adnum = a.attnum
where n.nspname = $1 and c.relkind in ('r', 'p')
order by c.relname, a.attnum
