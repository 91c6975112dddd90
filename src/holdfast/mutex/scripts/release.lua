-- KEYS: the lock, its queue, its waiters; the list that wakes a waiter is named after the last key and the waiter
-- ARGV: owner
-- Gives the lock back if it is the owner's, leaves the queue, and wakes the first who waits. Answers 1 if it was the owner's.
local ours = redis.call('GET', KEYS[1]) == ARGV[1]
if ours then
  redis.call('DEL', KEYS[1])
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 0 then
  local first = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  if first then
    local bell = KEYS[3] .. ':' .. first
    redis.call('RPUSH', bell, '1')
    redis.call('PEXPIRE', bell, 5000)
  end
end
return ours and 1 or 0
