#!lua flags=allow-oom
-- Moves the ends of leases where the token still holds, and only to later.
--
-- ARGV     for each renewal: id, token, lease in microseconds
-- Returns  the ids of those that were renewed; the ids of those that were lost
local renewed, lost = {}, {}
for i = 1, #ARGV, 3 do
  local id, token, ttl = unpack(ARGV, i, i + 2)
  local holder, queue = unpack(redis.call('hmget', message_key(id), 'token', 'queue'))
  if holder == token then
    local ends = redis.call('zscore', leased_key(queue), id)
    redis.call('zadd', leased_key(queue), math.max(ends, now + ttl), id)
    renewed[#renewed + 1] = id
  else
    lost[#lost + 1] = id
  end
end
return { renewed, lost }
