#!lua flags=allow-oom
-- Leases messages.
--
-- ARGV     token, limit, 'pending' or 'expired', '1' to resume, losses at which a message is dead;
--          for each queue: its name, its lease in microseconds, the attempts that it allows
-- Returns  now; leased messages, as `lease` lists them; dead letters: id, queue, kind, reason;
--          and if nothing is leased, microseconds until a message is due and until a lease ends
local token, limit, source, resume, most_losses = unpack(ARGV, 1, 5)
limit, most_losses = tonumber(limit), tonumber(most_losses)
local leased, dead, alone = {}, {}, false

local function lease(id, queue, ttl)
  local message = message_key(id)
  redis.call('hset', message, 'token', token)
  redis.call('zadd', leased_key(queue), now + ttl, id)
  local kind, about, key, payload, created_at =
    unpack(redis.call('hmget', message, 'kind', 'about', 'key', 'payload', 'created_at'))
  local counts = redis.call('hmget', message, 'attempts', 'max_attempts', 'lease_losses', 'deliveries')
  leased[#leased + 1] = { id, queue, kind, about, key, payload, counts, created_at }
end

local function deliver(id, queue, ttl, counted)
  redis.call('hincrby', message_key(id), counted, 1)
  redis.call('hincrby', message_key(id), 'deliveries', 1)
  lease(id, queue, ttl)
end

-- What this token holds already. Looks at every lease of the queue: it is rare.
local function take_again(queue, ttl)
  local held = {}
  for _, id in ipairs(redis.call('zrange', leased_key(queue), 0, -1)) do
    local holder, priority, due = unpack(redis.call('hmget', message_key(id), 'token', 'priority', 'due'))
    -- A text that is sorted as messages start.
    if holder == token then held[#held + 1] = string.format('%d %019.0f %s', priority + 3, due, id) end
  end
  table.sort(held)
  for _, place in ipairs(held) do
    local id = string.sub(place, -19)
    if #leased < limit then lease(id, queue, ttl) else give_back(id, nil, true) end
  end
end

local function take_pending(queue, ttl)
  for priority = -3, 3 do
    local waiting = waiting_key(queue, priority)
    for _, id in ipairs(redis.call('zrangebyscore', waiting, 0, now, 'limit', 0, limit - #leased)) do
      redis.call('zrem', waiting, id)
      deliver(id, queue, ttl, 'attempts')
    end
  end
end

-- Looks at no more leases than the limit: many dead letters must not hold up the server.
local function take_expired(queue, ttl, allowed)
  for _, id in ipairs(redis.call('zrangebyscore', leased_key(queue), 0, now, 'limit', 0, limit)) do
    local kind, attempts, max_attempts, losses =
      unpack(redis.call('hmget', message_key(id), 'kind', 'attempts', 'max_attempts', 'lease_losses'))
    local reason = losses + 1 >= most_losses and 'crashed'
      or tonumber(attempts) >= math.max(max_attempts, allowed) and 'lease_expired'
    if reason then
      remove(id, reason)
      dead[#dead + 1] = { id, queue, kind, reason }
    elseif #leased == 0 or (losses == '0' and #leased < limit and not alone) then
      alone = losses ~= '0'
      deliver(id, queue, ttl, 'lease_losses')
    end
  end
end

local function each_queue(act)
  for i = 6, #ARGV, 3 do act(unpack(ARGV, i, i + 2)) end
end
if resume == '1' then each_queue(take_again) end
if #leased == 0 then each_queue(source == 'pending' and take_pending or take_expired) end

local next_due, next_expiry = false, false
local function sooner(wait, key)
  local first = redis.call('zrange', key, 0, 0, 'withscores')[2]
  return first and math.min(wait or math.huge, math.max(first - now, 0)) or wait
end
if #leased == 0 then
  each_queue(function(queue)
    for priority = -3, 3 do next_due = sooner(next_due, waiting_key(queue, priority)) end
    next_expiry = sooner(next_expiry, leased_key(queue))
  end)
end
return { now, leased, dead, next_due, next_expiry }
