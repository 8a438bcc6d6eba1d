-- Reads how our tables were made.
--
-- $1 text  prefix of their names
--
-- Returns table_name, without the prefix, and definition text; is_strict integer.
-- Locks: none.
-- Index: the catalogue's own.
select substr(t.name, length($1) + 2) as table_name, t.strict as is_strict, made.sql as definition
from pragma_table_list as t
join sqlite_schema as made on made.type = 'table' and made.name = t.name
where t.schema = 'main'
  and t.type = 'table'
  and substr(t.name, 1, length($1) + 1) = $1 || '_'
order by t.name
