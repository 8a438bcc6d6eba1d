-- Deletes a lot of dead letters for good: those with the smallest ids.
--
-- $1 text      queue, or null for all
-- $2 interval  the age since their death above which they go
-- $3 bigint    the id after which the lot begins
-- $4 bigint    how many at most
--
-- Returns one row: purged bigint, how many were deleted, and last_id bigint, the largest id of
-- these, or null.
-- Locks: those dead letters; locked ones are skipped, and stay.
-- Index: the primary key, read from $3 on; a queue with few dead letters among many reads past the
-- others.
with old as materialized (
    select message_id
    from {schema}.dead_letter
    where message_id > $3
      and ($1::text is null or queue = $1::text)
      and died_at < statement_timestamp() - $2::interval
    order by message_id
    limit $4
    for update skip locked
),
purged as (
    delete from {schema}.dead_letter
    where message_id = any (array(select message_id from old))
    returning message_id
)
select count(*) as purged, max(message_id) as last_id
from purged
