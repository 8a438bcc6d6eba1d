-- Writes the outcomes of a batch, as a whole or not at all.
--
-- To delete (done, discard), by id:
-- $1 bigint[]    ids, each once
-- $2 uuid[]      their tokens
-- To make available again (retry, snooze, release), by id:
-- $3 bigint[]    ids
-- $4 uuid[]      tokens
-- $5 interval[]  delay from now, or null to keep the due time
-- $6 boolean[]   whether the attempt is refunded
-- $7 boolean[]   whether the losses start again at zero
-- $8 text[]      the error to keep, or null to keep the one before
-- To keep as dead letters, by id:
-- $9 bigint[]    ids
-- $10 uuid[]     tokens
-- $11 text[]     reasons
-- $12 text[]     errors
--
-- Returns ids bigint[] of the messages changed, those whose token still held, in one row: a row for each
-- costs more than all else about it.
-- Locks: the messages changed, in id order within each list; waits for a claim that is taking one.
-- Index: the primary key. "= any" keeps it so whatever the planner believes about the sizes, and
-- "is not distinct from" keeps it from walking message_lease_idx, which a plain "=" on the token
-- would allow, and which looks free while the statistics say the table is empty.
with deleted as (
    delete from {schema}.message as m
    where m.id = any ($1::bigint[])
      -- The place of the id in the sorted list, found by halves: a join costs as much again. It is
      -- within the list, and the token not null, even where a list were not sorted.
      and m.acquired_token
          is not distinct from ($2::uuid[])[greatest(width_bucket(m.id, $1::bigint[]), 1)]
    returning m.id
),
returned as (
    update {schema}.message as m
    set acquired_token   = null,
        acquired_at      = null,
        lease_expires_at = null,
        next_attempt_at  = coalesce(clock_timestamp() + settled.delay, m.next_attempt_at),
        attempts         = greatest(m.attempts - settled.refund::integer, 0),
        lease_losses     = case when settled.forgive then 0 else m.lease_losses end,
        last_error       = coalesce(settled.error, m.last_error)
    from unnest($3::bigint[], $4::uuid[], $5::interval[], $6::boolean[], $7::boolean[], $8::text[])
        as settled (id, token, delay, refund, forgive, error)
    where m.id = any ($3::bigint[])
      and m.id = settled.id
      and m.acquired_token is not distinct from settled.token
    returning m.id
),
removed as (
    delete from {schema}.message as m
    using unnest($9::bigint[], $10::uuid[], $11::text[], $12::text[])
        as settled (id, token, reason, error)
    where m.id = any ($9::bigint[])
      and m.id = settled.id
      and m.acquired_token is not distinct from settled.token
    returning m.id, m.queue, m.kind, m.payload, m.content_type, m.headers, m.priority, m.key,
        m.group_key, m.tag, m.attempts, m.max_attempts, m.deliveries, m.lease_losses, m.created_at,
        settled.reason, settled.error
),
buried as (
    insert into {schema}.dead_letter (
        message_id, queue, kind, payload, content_type, headers, priority, key, group_key, tag,
        attempts, max_attempts, deliveries, lease_losses, created_at, died_at, reason, last_error
    )
    select
        -- An id is taken only where ids began again, as after "truncate .. restart identity": then
        -- both dead letters are kept, and this one takes an id past all of them.
        case
            when exists (select from {schema}.dead_letter as d where d.message_id = removed.id) then
                (
                    select greatest(max(d.message_id), (select max(id) from removed))
                    from {schema}.dead_letter as d
                ) + row_number() over ()
            else id
        end,
        queue, kind, payload, content_type, headers, priority, key, group_key, tag,
        attempts, max_attempts, deliveries, lease_losses, created_at, clock_timestamp(), reason,
        error
    from removed
)
select array(
    select id from deleted
    union all
    select id from returned
    union all
    select id from removed
) as ids
