#!lua flags=allow-oom
-- Writes outcomes where the token still holds.
--
-- ARGV     for each settlement: id, token, verdict, microseconds of delay, reason, error
-- Returns  the ids of those that were written
local written = {}
for i = 1, #ARGV, 6 do
  local id, token, verdict, delay, reason, error = unpack(ARGV, i, i + 5)
  local message = message_key(id)
  if redis.call('hget', message, 'token') == token then
    if verdict == 'retry' or verdict == 'dead' then redis.call('hset', message, 'last_error', error) end
    if verdict == 'delete' then
      remove(id)
    elseif verdict == 'dead' then
      remove(id, reason)
    elseif verdict == 'release' then
      give_back(id, nil, true)
    else
      redis.call('hset', message, 'lease_losses', 0)
      give_back(id, now + delay, verdict == 'snooze')
    end
    written[#written + 1] = id
  end
end
return written
