-- Writes one message, in the caller's transaction.
--
-- $1 text queue, $2 text kind, $3 blob payload, $4 text content type, $5 text headers as JSON or
-- null, $6 integer priority, $7 text key or null, $8 text group or null, $9 text tag or null,
-- $10 integer max attempts, $11 integer milliseconds from now, $12 integer due instant in
-- milliseconds since the Unix epoch, or null for $11
--
-- Returns id integer, or no row where a live message of the same queue and key exists.
-- Locks: the database's one write lock, until the caller's transaction ends.
-- Index: message_key_idx as the arbiter.
--
-- A conflict is no error, so that the caller's transaction goes on.
insert into {prefix}_message (
    queue, kind, payload, content_type, headers, priority, key, group_key, tag, max_attempts,
    next_attempt_at
)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, coalesce($12, {now} + $11))
on conflict (queue, key) where key is not null do nothing
returning id
