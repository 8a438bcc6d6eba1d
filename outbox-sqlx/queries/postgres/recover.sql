-- Finds the leases of a claim whose reply was lost, and renews them.
--
-- $1 uuid        token of that claim
-- $2 text[]      its queues
-- $3 interval[]  lease time of each queue
--
-- Returns the messages this token holds, in no order.
-- Locks: those messages; one that somebody else has locked is skipped, and runs when its lease
-- expires.
-- Index: message_lease_idx; reads every lease of the queues, which a lost reply is rare enough for.
update {schema}.message as m
set lease_expires_at = greatest(
        m.lease_expires_at,
        clock_timestamp() + ($3::interval[])[array_position($2::text[], m.queue)]
    )
where m.ctid = any (array(
    select held.ctid
    from unnest($2::text[]) as served (queue)
    cross join lateral (
        select l.ctid
        from {schema}.message as l
        where l.queue = served.queue
          and l.acquired_token is not null
          and l.acquired_token = $1
        for update skip locked
    ) as held
))
returning m.id, m.queue, m.kind, m.payload, m.content_type, m.headers::text as headers, m.priority,
    m.key, m.group_key, m.tag, m.attempts, m.max_attempts, m.deliveries, m.lease_losses,
    m.created_at, m.next_attempt_at as due_at, clock_timestamp() as claimed_at
