-- Reads the usable indexes of a schema's tables.
--
-- $1 text  schema
--
-- Returns table_name, index_name text; is_unique boolean; keys text, the key columns with their
-- order where it is not the default one; predicate text or null.
-- Locks: none.
-- Index: the catalogue's own.
--
-- An index that is not valid, as a failed concurrent build leaves it, is as good as none.
select c.relname::text as table_name, x.relname::text as index_name, i.indisunique as is_unique,
    (
        select string_agg(
            pg_get_indexdef(i.indexrelid, key.place::integer, true)
                || case when i.indoption[key.place - 1] = 0 then '' else ' descending' end,
            ', ' order by key.place
        )
        from generate_series(1, i.indnkeyatts) as key (place)
    ) as keys,
    pg_get_expr(i.indpred, i.indrelid) as predicate
from pg_index as i
join pg_class as c on c.oid = i.indrelid
join pg_class as x on x.oid = i.indexrelid
join pg_am as am on am.oid = x.relam and am.amname = 'btree'
join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = $1 and i.indisvalid and i.indisready
order by c.relname, x.relname
