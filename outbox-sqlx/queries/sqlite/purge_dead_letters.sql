-- Deletes a lot of dead letters for good: those with the smallest ids.
--
-- $1 text     queue, or null for all
-- $2 integer  the age in milliseconds since their death above which they go
-- $3 integer  the id after which the lot begins
-- $4 integer  how many at most
--
-- Returns id integer of those deleted.
-- Locks: the database's one write lock, for this statement.
-- Index: the primary key, read from $3 on; a queue with few dead letters among many reads past the
-- others.
delete from {prefix}_dead_letter
where message_id in (
    select message_id
    from {prefix}_dead_letter
    where message_id > $3
      and ($1 is null or queue = $1)
      and died_at < {now} - $2
    order by message_id
    limit $4
)
returning message_id as id
