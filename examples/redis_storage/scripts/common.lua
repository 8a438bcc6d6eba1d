-- What every script begins with: the clock, the names of the keys, and how a message is let go.
--
-- KEYS[1]  the prefix of all keys; the other names follow from it
--
-- Numbers go to redis.call as they are: joined to a text they would be rounded to 14 digits. Ids
-- stay texts: a number of Lua is exact up to 2^53 only.
local prefix = KEYS[1]
local time = redis.call('time')
local now = time[1] * 1000000 + time[2]

local function message_key(id) return prefix .. 'message:' .. id end
local function waiting_key(queue, priority) return prefix .. 'waiting:' .. priority .. ':' .. queue end
local function leased_key(queue) return prefix .. 'leased:' .. queue end
local function keys_key(queue) return prefix .. 'keys:' .. queue end

-- Takes the lease away. The message waits until `due`, or for what it waited for before.
local function give_back(id, due, refund)
  local message = message_key(id)
  local queue, priority, was_due = unpack(redis.call('hmget', message, 'queue', 'priority', 'due'))
  redis.call('hdel', message, 'token')
  redis.call('hset', message, 'due', due or was_due)
  if refund then redis.call('hincrby', message, 'attempts', -1) end
  redis.call('zrem', leased_key(queue), id)
  redis.call('zadd', waiting_key(queue, priority), due or was_due, id)
end

-- Takes the message out of all that leads to it, and deletes it unless it is to be a dead letter.
local function remove(id, reason)
  local message = message_key(id)
  local queue, priority, key = unpack(redis.call('hmget', message, 'queue', 'priority', 'key'))
  redis.call('zrem', waiting_key(queue, priority), id)
  redis.call('zrem', leased_key(queue), id)
  if key then redis.call('hdel', keys_key(queue), key) end
  if not reason then return redis.call('del', message) end
  redis.call('hdel', message, 'token')
  redis.call('hset', message, 'reason', reason, 'died_at', now)
  redis.call('rename', message, prefix .. 'dead:' .. id)
  redis.call('zadd', prefix .. 'dead', now, id)
end
