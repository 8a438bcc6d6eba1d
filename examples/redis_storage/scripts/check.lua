#!lua flags=allow-oom
-- Returns what the server deletes when its memory is full.
return string.match(redis.call('info', 'memory'), 'maxmemory_policy:(%S+)')
