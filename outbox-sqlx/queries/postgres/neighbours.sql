-- Says how many other workers of the same queues are working off a backlog, and that this one is, for the next seconds.
--
-- $1 text  the name that workers of the same queues have in common
--
-- Returns one row: others bigint.
-- Locks: a shared advisory lock of the session for the second in which it runs, never waited for;
--        lets go of those of earlier seconds.
-- Index: none; reads the table of locks.
--
-- A lock of an earlier second than the last is of a worker that went on to something else, and counts
-- for nothing; nor does one of a later second than the next, taken before the clock was set back.
with present as materialized (
    select hashtext($1) & 2147483647 as name,
        (extract(epoch from statement_timestamp())::bigint & 2147483647)::integer as second
),
held as materialized (
    select locks.pid, locks.objid::bigint::integer as second
    from pg_locks as locks
    cross join present
    where locks.locktype = 'advisory'
      and locks.database = (select oid from pg_database where datname = current_database())
      and locks.classid = present.name::oid
      and locks.objsubid = 2
      and locks.granted
)
select
    (
        select count(distinct held.pid)
        from held
        cross join present
        where held.pid <> pg_backend_pid()
          and held.second between present.second - 1 and present.second + 1
    ) as others,
    (
        select count(pg_advisory_unlock_shared(present.name, held.second))
        from held
        cross join present
        where held.pid = pg_backend_pid() and held.second <> present.second
    ) as released,
    (
        select count(pg_try_advisory_lock_shared(present.name, present.second))
        from present
        where not exists (
            select from held where held.pid = pg_backend_pid() and held.second = present.second
        )
    ) as taken
