-- Deletes messages that are done or discarded. One statement of a settle, between begin.sql and
-- commit.sql.
--
-- $2 text  leases, as a JSON array of [token in hexadecimal, array of the ids it holds]
--
-- Returns nothing: settle_held.sql, just before, says which it will delete.
-- Locks: the write lock of its transaction.
-- Index: the primary key. With "=" in the place of "is" the token would make message_lease_idx
-- usable, which would be walked from end to end where the statistics say that the table is empty.
with lease (token, ids) as materialized (
    select unhex(held.value ->> 0), held.value -> 1
    from json_each($2) as held
)
delete from {prefix}_message
where id in (
    select m.id
    from lease
    cross join json_each(lease.ids) as settled
    cross join {prefix}_message as m
    where m.id = settled.value
      and m.acquired_token is lease.token
)
