-- Gives back what a claim whose reply was lost had leased beyond the limit. One statement of that,
-- between begin.sql and commit.sql.
--
-- $1 blob  token that holds them
-- $3 text  ids, as a JSON array
--
-- Returns nothing.
-- Locks: the write lock of its transaction.
-- Index: the primary key. "is" as in settle_delete.sql.
update {prefix}_message
set acquired_token   = null,
    acquired_at      = null,
    lease_expires_at = null,
    attempts         = max(attempts - 1, 0)
where id in (select value from json_each($3))
  and acquired_token is $1
