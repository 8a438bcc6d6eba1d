-- Says what a vacuum of the messages would meet, and takes the right to run it.
--
-- $1 text      the name of that right
-- $2 interval  how long ago a vacuum is recent
--
-- Returns one row: permitted boolean, whether this user may vacuum the table; free boolean, whether
-- this session now has the right; recent boolean, whether a vacuum has ended within $2; live bigint,
-- about how many messages there are; dead bigint, about how many rows are dead.
-- Locks: an advisory lock of the session, never waited for.
-- Index: the catalogue's own.
--
-- A vacuum by somebody who may not skips the table and is no error. The owner of the database may, and
-- from 17 on so may who was granted MAINTAIN, a word that older servers refuse when they meet it. The
-- number of dead rows is written when a vacuum ends; what sessions add to it comes in later, up to 10 s
-- after their last statement, so that it is of use after a vacuum and not before one.
select
    pg_has_role(table_of.relowner, 'usage')
        or pg_has_role(db.datdba, 'usage')
        or case
            when current_setting('server_version_num')::integer >= 170000
                then has_table_privilege(table_of.oid, 'maintain')
            else false
        end as permitted,
    pg_try_advisory_lock(hashtextextended($1::text, 0)) as free,
    coalesce(
        greatest(
            pg_stat_get_last_vacuum_time(table_of.oid),
            pg_stat_get_last_autovacuum_time(table_of.oid)
        ) > clock_timestamp() - $2::interval,
        false
    ) as recent,
    greatest(table_of.reltuples, 0)::bigint as live,
    pg_stat_get_dead_tuples(table_of.oid) as dead
from pg_class as table_of
cross join pg_database as db
where table_of.oid = '{schema}.message'::regclass
  and db.datname = current_database()
