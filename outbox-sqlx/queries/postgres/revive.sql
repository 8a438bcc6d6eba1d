-- Makes a dead letter a message again: same id, attempts and losses from zero, due now.
--
-- $1 bigint   id
-- $2 text     channel
-- $3 boolean  whether to wake workers
--
-- Returns id bigint, or no row where there is no such dead letter; and announced bigint. Fails
-- with 23505, and changes nothing, where a live message has its key.
-- Locks: the dead letter.
-- Index: the primary key of dead_letter.
--
-- The deliveries are kept: handlers use them as a fence that only grows.
with removed as (
    delete from {schema}.dead_letter
    where message_id = $1
    returning message_id, queue, kind, payload, content_type, headers, priority, key, group_key,
        tag, max_attempts, deliveries, created_at, last_error
),
revived as (
    insert into {schema}.message (
        id, queue, kind, payload, content_type, headers, priority, key, group_key, tag,
        max_attempts, deliveries, created_at, next_attempt_at, last_error
    )
    overriding system value
    select message_id, queue, kind, payload, content_type, headers, priority, key, group_key,
        tag, max_attempts, deliveries, created_at, statement_timestamp(), last_error
    from removed
    returning id, queue
),
announced as (
    select pg_notify($2::text, queue)
    from revived
    where $3::boolean
)
select id, (select count(*) from announced) as announced
from revived
