-- Force the fleet's breaker, or reset it. ARGV: the order in JSON, and the channel on which changes of state are told.
--
-- An order that comes late (its process was cut off) gives way to one that was given after it. The answer is the state that holds
-- now, in JSON: whoever gave the order knows it from here on, and would put it back into a store that forgot it.
local order = cjson.decode(ARGV[1])
local keys = {breaker = KEYS[1], calls = KEYS[2], bad = KEYS[5], shut = KEYS[6]}

local function force()
  local breaker = read_breaker(keys.breaker)
  local given = now - order.age
  if order.age > 0 and breaker.stamp >= given then
    return cjson.encode(state_of(breaker))
  end
  breaker.stamp = math.max(breaker.stamp + 1, given)
  breaker.force = order.force
  move(breaker, 'closed', 0, order.force == 'none' and 'reset' or 'forced')
  redis.call('DEL', keys.calls, keys.bad, keys.shut)
  write_breaker(keys.breaker, breaker)
  keep(keys.breaker, breaker)
  announce(order.policy)
  return cjson.encode(state_of(breaker))
end

local done, outcome = pcall(force)
if not done then
  if not mend({[keys.breaker] = 'hash'}) then
    return failure(outcome)
  end
  outcome = force()
end
return outcome
