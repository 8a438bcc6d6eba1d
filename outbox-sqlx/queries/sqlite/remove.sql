-- Deletes what bury.sql, in the same transaction, has copied to the dead letters.
--
-- $1 text  as in bury.sql
--
-- Returns id integer, queue, kind and reason text of those whose token still held.
-- Locks: the write lock of its transaction.
-- Index: the primary key. "is" as in settle_delete.sql.
delete from {prefix}_message
where id in (
    select m.id
    from json_each($1) as letter
    cross join {prefix}_message as m
    where m.id = letter.value ->> 0
      and m.acquired_token is unhex(letter.value ->> 1)
      and (letter.value ->> 4 is null or m.lease_expires_at = letter.value ->> 4)
)
returning id, queue, kind, (
    select letter.value ->> 2
    from json_each($1) as letter
    -- "id" alone is a column of json_each.
    where letter.value ->> 0 = {prefix}_message.id
    limit 1
) as reason
