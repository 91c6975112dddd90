-- KEYS: the lock
-- ARGV: owner, ttl in ms
-- Answers 1 if it is the owner's, and will be for another ttl.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
