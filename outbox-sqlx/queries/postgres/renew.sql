-- Renews leases without ever waiting for a lock: a caller's transaction may hold a message for
-- long, and one such message must not cost the other leases.
--
-- $1 bigint[]    ids
-- $2 uuid[]      tokens
-- $3 interval[]  how long from now each lease shall hold
--
-- Returns id bigint and renewed boolean: true for leases that now end later, false for those the
-- token no longer holds. A message that is held but locked by others is in neither.
-- Locks: the messages renewed; locked ones are skipped.
-- Index: the primary key, one probe for each id. "is not distinct from" as in settle.sql.
with asked as materialized (
    select * from unnest($1::bigint[], $2::uuid[], $3::interval[]) as asked (id, token, lease_ttl)
),
held as materialized (
    select asked.id, asked.token, asked.lease_ttl
    from asked
    cross join lateral (
        select m.id
        from {schema}.message as m
        where m.id = asked.id and m.acquired_token is not distinct from asked.token
        for update skip locked
    ) as locked
),
renewed as (
    update {schema}.message as m
    -- A renewal that was on its way for long must not cut a lease that ends later.
    set lease_expires_at = greatest(m.lease_expires_at, clock_timestamp() + held.lease_ttl)
    from held
    where m.id = any (array(select id from held))
      and m.id = held.id
      and m.acquired_token is not distinct from held.token
    returning m.id
)
select id, true as renewed from renewed
union all
select asked.id, false
from asked
left join lateral (
    select true as held
    from {schema}.message as m
    where m.id = asked.id and m.acquired_token is not distinct from asked.token
    offset 0
) as now on true
where now.held is null
