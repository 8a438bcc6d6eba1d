-- Deletes messages that are done or discarded. One statement of a settle, between begin.sql and
-- commit.sql.
--
-- $2 text  messages, as a JSON array of [id, token in hexadecimal]
--
-- Returns id integer of those whose token still held.
-- Locks: the write lock of its transaction.
-- Index: the primary key. With "=" in the place of "is" the token would make message_lease_idx
-- usable, which would be walked from end to end where the statistics say that the table is empty.
delete from {prefix}_message
where id in (
    select m.id
    from json_each($2) as settled
    cross join {prefix}_message as m
    where m.id = settled.value ->> 0
      and m.acquired_token is unhex(settled.value ->> 1)
)
returning id
