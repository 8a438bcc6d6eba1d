#!lua flags=allow-oom
-- Deletes a message that nobody holds under a lease that runs.
--
-- ARGV     id
-- Returns  'cancelled', 'leased' or 'not_found'
local queue = redis.call('hget', message_key(ARGV[1]), 'queue')
if not queue then return 'not_found' end
local ends = redis.call('zscore', leased_key(queue), ARGV[1])
if ends and tonumber(ends) > now then return 'leased' end
remove(ARGV[1])
return 'cancelled'
