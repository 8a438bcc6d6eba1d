-- Leases messages whose lease has expired; those that were lost too often, or on their last
-- attempt, become dead letters instead.
--
-- $1 uuid        token of the new leases
-- $2 text[]      queues, in the order in which they are served
-- $3 interval[]  lease time of each queue
-- $4 bigint      how many messages at most
-- $5 smallint    the number of losses at which a message is dead
-- $6 smallint[]  the attempts that each queue allows where a message has fewer, or null
-- $7 timestamptz[]  the end of a lease from which to read each queue, or null for the beginning
--
-- Returns messages, in no order: leased ones with a null reason, dead letters with their reason
-- and an empty payload.
-- Locks: the candidates; messages locked by others are skipped, never waited for.
-- Index: message_lease_idx for the candidates, the primary key for the writes.
--
-- A message that was lost before may be what kills its holders: it is taken alone, so that it
-- cannot take others with it. The writes match by id and not by ctid: a candidate that a renew
-- changed since the snapshot was locked, and judged, in its new version. What is known of it is found
-- in sorted lists, by halves, as in settle.sql: a join with candidates that the planner believes to be
-- few reads all of them for each.
with candidate as materialized (
    select expired.*, row_number() over () as place
    from (
        select leased.id, leased.queue, leased.lease_expires_at, leased.lease_losses,
            leased.attempts, leased.max_attempts
        from unnest($2::text[], $7::timestamptz[]) as served (queue, since)
        cross join lateral (
            select l.id, l.queue, l.lease_expires_at, l.lease_losses, l.attempts, l.max_attempts
            from {schema}.message as l
            where l.queue = served.queue
              and l.acquired_token is not null
              and l.lease_expires_at <= statement_timestamp()
              and l.lease_expires_at >= coalesce(served.since, '-infinity')
            order by l.lease_expires_at, l.id
            limit $4
            for update skip locked
        ) as leased
        limit $4
    ) as expired
),
chosen as materialized (
    select c.id, c.lease_expires_at,
        case
            when c.lease_losses + 1 >= $5::smallint then 'crashed'
            -- Null counts for nothing here.
            when c.attempts >= greatest(
                c.max_attempts, ($6::smallint[])[array_position($2::text[], c.queue)]
            ) then 'lease_expired'
        end as reason
    from candidate as c
    where case
        when (select first.lease_losses > 0 from candidate as first where first.place = 1)
            then c.place = 1
        else c.lease_losses <= 0
    end
),
removed as (
    delete from {schema}.message as m
    where m.id = any (array(select id from chosen where reason is not null))
    returning m.id, m.queue, m.kind, m.payload, m.content_type, m.headers, m.priority, m.key,
        m.group_key, m.tag, m.attempts, m.max_attempts, m.deliveries, m.lease_losses, m.created_at,
        m.next_attempt_at, m.last_error,
        (array(select reason from chosen order by id))[
            width_bucket(m.id, array(select id from chosen order by id))
        ] as reason
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
        attempts, max_attempts, deliveries, least(lease_losses + 1, 32767), created_at,
        clock_timestamp(), reason, last_error
    from removed
),
reclaimed as (
    update {schema}.message as m
    set acquired_token   = $1,
        acquired_at      = clock_timestamp(),
        lease_expires_at = clock_timestamp() + ($3::interval[])[array_position($2::text[], m.queue)],
        -- Counts at their end stay there, as in claim_pending.sql.
        lease_losses     = least(m.lease_losses + 1, 32767),
        deliveries       = least(m.deliveries, 2147483646) + 1
    where m.id = any (array(select id from chosen where reason is null))
    returning m.id, m.queue, m.kind, m.payload, m.content_type, m.headers::text as headers,
        m.priority, m.key, m.group_key, m.tag, m.attempts, m.max_attempts, m.deliveries,
        m.lease_losses, m.created_at,
        (array(select lease_expires_at from chosen order by id))[
            width_bucket(m.id, array(select id from chosen order by id))
        ] as due_at,
        clock_timestamp() as claimed_at
)
select id, queue, kind, payload, content_type, headers, priority, key, group_key, tag, attempts,
    max_attempts, deliveries, lease_losses, created_at, due_at, claimed_at, null::text as reason
from reclaimed
union all
select id, queue, kind, ''::bytea, '', null, 0::smallint, null, null, null, 0::smallint,
    0::smallint, 0, 0::smallint, statement_timestamp(), statement_timestamp(),
    statement_timestamp(), reason
from removed
