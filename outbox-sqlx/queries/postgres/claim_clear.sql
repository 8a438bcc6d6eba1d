-- Leases due messages of a queue in which nothing was pending a moment ago, best first.
--
-- $1 uuid      token of the new leases
-- $2 text      queue
-- $3 interval  lease time
-- $4 bigint    how many messages at most
--
-- Returns the leased messages, in no order.
-- Locks: the messages it leases; messages locked by others are skipped, never waited for.
-- Index: message_pending_idx, all priorities in one scan; no sort.
--
-- As claim_pending.sql, which takes 0.06 to 0.09 ms longer for one message, but looks at each priority
-- by itself: this one reads every entry of the queue, those that are due later as well.
update {schema}.message as m
set acquired_token   = $1,
    acquired_at      = clock_timestamp(),
    lease_expires_at = clock_timestamp() + $3::interval,
    attempts         = least(m.attempts + 1, 32767),
    deliveries       = least(m.deliveries, 2147483646) + 1
where m.ctid = any (array(
    select waiting.ctid
    from {schema}.message as waiting
    where waiting.queue = $2
      and waiting.acquired_token is null
      -- Those that claim_pending.sql is given. Newer workers may know others.
      and waiting.priority between -3 and 3
      and waiting.next_attempt_at <= statement_timestamp()
    order by waiting.priority, waiting.next_attempt_at, waiting.id
    limit $4
    for update skip locked
))
returning m.id, m.queue, m.kind, m.payload, m.content_type, m.headers::text as headers, m.priority,
    m.key, m.group_key, m.tag, m.attempts, m.max_attempts, m.deliveries, m.lease_losses,
    m.created_at, m.next_attempt_at as due_at,
    statement_timestamp() as claimed_at
