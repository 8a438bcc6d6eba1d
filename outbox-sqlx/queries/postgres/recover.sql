-- Finds the leases of a claim whose reply was lost: begins those anew that are returned, and
-- releases the others.
--
-- $1 uuid        token of that claim
-- $2 text[]      its queues, in the order in which they are served
-- $3 interval[]  lease time of each queue
-- $4 bigint      how many messages at most
--
-- Returns messages this token holds, those that start first, in no order.
-- Locks: the messages it holds; one that somebody else has locked is skipped, and runs when its
-- lease expires.
-- Index: message_lease_idx for the leases, all of those queues, which a lost reply is rare enough
-- for; the primary key for the writes. Only what the token holds is sorted.
with held as materialized (
    select found.id,
        row_number() over (
            order by array_position($2::text[], found.queue), found.priority,
                found.next_attempt_at, found.id
        ) as place
    from (
        select leased.id, leased.queue, leased.priority, leased.next_attempt_at
        from unnest($2::text[]) as served (queue)
        cross join lateral (
            select l.id, l.queue, l.priority, l.next_attempt_at
            from {schema}.message as l
            where l.queue = served.queue
              and l.acquired_token is not null
              and l.acquired_token = $1
            for update skip locked
        ) as leased
    ) as found
),
released as (
    update {schema}.message as m
    set acquired_token   = null,
        acquired_at      = null,
        lease_expires_at = null,
        attempts         = greatest(m.attempts - 1, 0)
    where m.id = any (array(select id from held where place > $4))
      and m.acquired_token is not distinct from $1
)
update {schema}.message as m
set acquired_at      = clock_timestamp(),
    lease_expires_at = clock_timestamp() + ($3::interval[])[array_position($2::text[], m.queue)]
where m.id = any (array(select id from held where place <= $4))
  and m.acquired_token is not distinct from $1
returning m.id, m.queue, m.kind, m.payload, m.content_type, m.headers::text as headers, m.priority,
    m.key, m.group_key, m.tag, m.attempts, m.max_attempts, m.deliveries, m.lease_losses,
    m.created_at, m.next_attempt_at as due_at, clock_timestamp() as claimed_at
