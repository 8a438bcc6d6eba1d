-- Lets the server notice within a second that nobody waits for a long statement any more.
--
-- Returns one row, or none where the server cannot do that: before 14, or not on every system.
-- Locks: none.
-- Index: none.
select set_config(name, '1s', false)
from pg_settings
where name = 'client_connection_check_interval'
