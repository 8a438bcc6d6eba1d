-- Says which messages of a settle others have locked, without waiting for them.
--
-- $1 bigint[]  ids
-- $2 uuid[]    tokens
--
-- Returns id bigint of the messages that the token holds and somebody else has locked.
-- Locks: the others, until the statement ends; locked ones are skipped.
-- Index: the primary key, one probe for each id. "is not distinct from" as in settle.sql.
with asked as materialized (
    select * from unnest($1::bigint[], $2::uuid[]) as asked (id, token)
),
free as materialized (
    select asked.id
    from asked
    cross join lateral (
        select m.id
        from {schema}.message as m
        where m.id = asked.id and m.acquired_token is not distinct from asked.token
        for update skip locked
    ) as locked
)
select asked.id
from asked
cross join lateral (
    select true as held
    from {schema}.message as m
    where m.id = asked.id and m.acquired_token is not distinct from asked.token
    offset 0
) as now
where not asked.id = any (array(select id from free))
