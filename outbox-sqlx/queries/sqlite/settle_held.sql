-- Says which messages settle_delete.sql, the next statement of the same transaction, will delete.
--
-- $2 text  as in settle_delete.sql
--
-- Returns one row: ids text, a JSON array of the ids whose token still holds. As rows of the delete
-- they would cost more than the delete: each row is handed from thread to thread.
-- Locks: the write lock of its transaction, without which a token could be lost in between.
-- Index: the primary key. "is" as in settle_delete.sql.
with lease (token, ids) as materialized (
    select unhex(held.value ->> 0), held.value -> 1
    from json_each($2) as held
)
select json_group_array(m.id) as ids
from lease
cross join json_each(lease.ids) as settled
cross join {prefix}_message as m
where m.id = settled.value
  and m.acquired_token is lease.token
