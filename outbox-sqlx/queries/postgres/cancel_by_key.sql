-- Deletes the message of a key if nobody holds it, in the caller's transaction.
--
-- $1 text  queue
-- $2 text  key
--
-- Returns one row: cancelled boolean, whether it was deleted, and found boolean, whether it
-- existed when the statement began. Found and not cancelled: somebody holds it.
-- Locks: the message; waits for a claim or a settle that is writing it.
-- Index: message_key_idx.
with cancelled as (
    delete from {schema}.message
    where queue = $1
      and key = $2
      and (acquired_token is null or lease_expires_at <= statement_timestamp())
    returning id
)
select exists (select from cancelled) as cancelled,
    exists (select from {schema}.message where queue = $1 and key = $2) as found
