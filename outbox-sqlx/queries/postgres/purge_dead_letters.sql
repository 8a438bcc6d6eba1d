-- Deletes dead letters for good.
--
-- $1 text      queue, or null for all
-- $2 interval  the age since their death above which they go
--
-- Returns one row: purged bigint, how many were deleted.
-- Locks: those dead letters.
-- Index: dead_letter_queue_idx with a queue, none without.
with purged as (
    delete from {schema}.dead_letter
    where ($1::text is null or queue = $1::text)
      and died_at < statement_timestamp() - $2::interval
    returning message_id
)
select count(*) as purged
from purged
