-- Deletes a message that nobody holds, in the caller's transaction.
--
-- $1 bigint  id
--
-- Returns one row: cancelled boolean, whether it was deleted, and found boolean, whether it
-- existed when the statement began. Found and not cancelled: somebody holds it.
-- Locks: the message; waits for a claim or a settle that is writing it.
-- Index: the primary key.
with cancelled as (
    delete from {schema}.message
    where id = $1
      and (acquired_token is null or lease_expires_at <= statement_timestamp())
    returning id
)
select exists (select from cancelled) as cancelled,
    exists (select from {schema}.message where id = $1) as found
