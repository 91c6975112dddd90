-- What the store knows of one policy, for people. Nothing is written. The answer is JSON.
local keys = {breaker = KEYS[1], calls = KEYS[2], seen = KEYS[4], shut = KEYS[6], probes = KEYS[7], budget = KEYS[8]}

local function status()
  local breaker, was_there = read_breaker(keys.breaker)
  local calls = redis.call('HMGET', keys.calls, 'calls', 'failures', 'slow')
  local budget = redis.call('HMGET', keys.budget, 'calls', 'retries')
  return {
    known = was_there, state = breaker.state, force = breaker.force, left = math.max(0, breaker.ends - now), why = breaker.why,
    generation = breaker.generation, passed = breaker.passed, calls = whole(calls[1]) or 0, failures = whole(calls[2]) or 0,
    slow = whole(calls[3]) or 0, processes = redis.call('ZCARD', keys.seen), shut = redis.call('ZCARD', keys.shut), probers = redis.call('HLEN', keys.probes),
    requests = whole(budget[1]) or 0, retries = whole(budget[2]) or 0,
  }
end

return cjson.encode(status())
