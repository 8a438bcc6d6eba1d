-- Reads the indexes of our tables.
--
-- $1 text  prefix of the tables' names
--
-- Returns table_name and index_name text, without the prefix; is_unique integer; keys text, the key
-- columns with their order and collation where these are not the default ones; definition text, the
-- statement that made it, null for one that a constraint made.
-- Locks: none.
-- Index: the catalogue's own.
select substr(t.name, length($1) + 2) as table_name,
    iif(
        substr(i.name, 1, length($1) + 1) = $1 || '_', substr(i.name, length($1) + 2), i.name
    ) as index_name,
    i."unique" as is_unique,
    (
        select group_concat(
            x.name || iif(x."desc", ' descending', '')
                || iif(x.coll = 'BINARY', '', ' collate ' || x.coll),
            ', ' order by x.seqno
        )
        from pragma_index_xinfo(i.name) as x
        where x.key
    ) as keys,
    made.sql as definition
from pragma_table_list as t
cross join pragma_index_list(t.name) as i
left join sqlite_schema as made on made.type = 'index' and made.name = i.name
where t.schema = 'main'
  and t.type = 'table'
  and substr(t.name, 1, length($1) + 1) = $1 || '_'
order by t.name, i.name
