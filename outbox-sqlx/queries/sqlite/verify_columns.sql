-- Reads the columns of our tables.
--
-- $1 text  prefix of their names
--
-- Returns table_name, without the prefix, column_name, type text in lower case; not_null,
-- fills_itself integer: whether a default, a generated value or the id of the row makes up for an
-- insert without it; default_value text or null.
-- Locks: none.
-- Index: the catalogue's own.
select substr(t.name, length($1) + 2) as table_name, c.name as column_name, lower(c.type) as type,
    c."notnull" as not_null,
    c.dflt_value is not null
        or c.hidden in (2, 3)
        or (
            c.pk > 0
            and lower(c.type) = 'integer'
            and (select count(*) from pragma_table_xinfo(t.name) as k where k.pk > 0) = 1
        ) as fills_itself,
    c.dflt_value as default_value
from pragma_table_list as t
cross join pragma_table_xinfo(t.name) as c
where t.schema = 'main'
  and t.type = 'table'
  and substr(t.name, 1, length($1) + 1) = $1 || '_'
order by t.name, c.cid
