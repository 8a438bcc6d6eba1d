-- Asks, on the listening connection itself, whether it still listens: a pooler may have given the
-- session to somebody else.
--
-- $1 text  channel
--
-- Returns one row: listening boolean.
-- Locks: none.
-- Index: none.
select exists (
    select from pg_listening_channels() as channel (name) where channel.name = $1
) as listening
