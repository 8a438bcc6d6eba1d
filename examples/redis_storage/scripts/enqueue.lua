#!lua
-- Writes messages, except those whose key has a live message in their queue.
--
-- ARGV     for each message: queue, priority, key or '', kind, about (the rest of it, as JSON),
--          payload, max_attempts, '1' if what follows counts from now, due time in microseconds
-- Returns  for each message: its id, or nil
local ids, hints = {}, {}
for i = 1, #ARGV, 9 do
  local queue, priority, key, kind, about, payload, max_attempts, from_now, due =
    unpack(ARGV, i, i + 8)
  local id = false
  if key == '' or redis.call('hexists', keys_key(queue), key) == 0 then
    redis.call('incr', prefix .. 'last_id')
    id = redis.call('get', prefix .. 'last_id')
    -- Of one length, so that messages that are due at the same time are read in their order.
    id = string.rep('0', 19 - #id) .. id
    due = due + (from_now == '1' and now or 0)
    redis.call('hset', message_key(id), 'queue', queue, 'priority', priority, 'kind', kind,
      'about', about, 'payload', payload, 'attempts', 0, 'max_attempts', max_attempts,
      'lease_losses', 0, 'deliveries', 0, 'created_at', now, 'due', due)
    redis.call('zadd', waiting_key(queue, priority), due, id)
    if key ~= '' then
      redis.call('hset', message_key(id), 'key', key)
      redis.call('hset', keys_key(queue), key, id)
    end
    if due <= now then hints[queue] = true end
  end
  ids[#ids + 1] = id
end
for queue in pairs(hints) do redis.call('publish', prefix .. 'wake:' .. queue, '') end
return ids
