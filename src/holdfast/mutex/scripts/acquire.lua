-- KEYS: the lock, its last token, its queue (by arrival), its waiters (by how long they are known to wait)
-- ARGV: owner, ttl in ms, how long this waiter is known to wait in ms (0: it does not queue), how long the token is remembered in ms
-- Answers {1, token}, or {0, ms until asking again may help}.
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)
local owner = ARGV[1]

-- Waiters that have stopped asking: killed, or given up without a word.
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now)) do
  redis.call('ZREM', KEYS[3], gone)
  redis.call('ZREM', KEYS[4], gone)
end

local holder = redis.call('GET', KEYS[1])
local first = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
if holder == owner or (not holder and (not first or first == owner)) then
  -- The server's time in microseconds, or one more than the last: it grows across expiry, and across a loss of the data too.
  local token = math.max((tonumber(redis.call('GET', KEYS[2])) or 0) + 1, micros)
  local text = string.format('%.0f', token)
  redis.call('SET', KEYS[1], owner, 'PX', ARGV[2])
  redis.call('SET', KEYS[2], text, 'PX', ARGV[4])
  redis.call('ZREM', KEYS[3], owner)
  redis.call('ZREM', KEYS[4], owner)
  return {1, text}
end

local patience = tonumber(ARGV[3])
if patience > 0 then
  redis.call('ZADD', KEYS[3], 'NX', micros, owner)
  redis.call('ZADD', KEYS[4], now + patience, owner)
  redis.call('PEXPIRE', KEYS[3], patience * 10)
  redis.call('PEXPIRE', KEYS[4], patience * 10)
end
if holder then
  return {0, tostring(redis.call('PTTL', KEYS[1]))}
end
return {0, tostring(tonumber(redis.call('ZSCORE', KEYS[4], first) or now) - now)}
