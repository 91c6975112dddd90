-- The fleet's breaker: one state for all processes, which only moves forward.
--
--   generation   grows with each change of state; the server's time, so it also grows where the store forgot the one before
--   state        closed, or open until `ends`; open and past `ends` is half-open
--   force        none, forced-open or forced-closed, and `stamp`, when somebody last said so; above all states
--
-- A state is never written over by an older one. Whoever knows a later one than the store (it was flushed, or a replica took over that
-- had not heard of it) puts it back.
local FIELDS = {'generation', 'state', 'ends', 'pause', 'passed', 'probers', 'failed', 'why', 'force', 'stamp'}
local STATES = {closed = true, open = true}
local FORCES = {none = true, ['forced-open'] = true, ['forced-closed'] = true}
local WORDS = {[''] = true, failures = true, slow = true, rows = true, probe = true, probes = true, reset = true, forced = true}
local KEEP = 86400 * 1000 -- how long the state of a policy that nobody has any more is kept

local function fresh()
  return {generation = 0, state = 'closed', ends = 0, pause = 0, passed = 0, probers = 0, failed = 0, why = '', force = 'none', stamp = 0}
end

local function is_sound(breaker)
  for _, field in ipairs({'generation', 'ends', 'pause', 'passed', 'probers', 'failed', 'stamp'}) do
    if not breaker[field] or breaker[field] < 0 then
      return false
    end
  end
  local future = now + YEAR
  return breaker.generation <= future and breaker.stamp <= future and STATES[breaker.state] and FORCES[breaker.force] and WORDS[breaker.why]
end

local function read_breaker(key)
  local stored = redis.call('HMGET', key, unpack(FIELDS))
  local breaker, there = {}, false
  for place, field in ipairs(FIELDS) do
    there = there or stored[place]
    breaker[field] = stored[place]
  end
  for _, field in ipairs({'generation', 'ends', 'pause', 'passed', 'probers', 'failed', 'stamp'}) do
    breaker[field] = whole(breaker[field])
  end
  if is_sound(breaker) then
    return breaker, true
  end
  if there then
    ignore('the state of the breaker')
  end
  return fresh(), false
end

local function write_breaker(key, breaker)
  local row = {}
  for _, field in ipairs(FIELDS) do
    row[#row + 1] = field
    row[#row + 1] = type(breaker[field]) == 'number' and plain(breaker[field]) or breaker[field]
  end
  redis.call('HSET', key, unpack(row))
end

-- A forced state has no end, and its key neither.
local function keep(key, breaker)
  if breaker.force == 'none' then
    redis.call('PEXPIRE', key, plain(KEEP + 2 * breaker.pause))
  else
    redis.call('PERSIST', key)
  end
end

local function move(breaker, state, pause, why)
  breaker.generation = math.max(breaker.generation + 1, now)
  breaker.state, breaker.why, breaker.pause = state, why, pause
  breaker.ends = state == 'open' and now + pause or 0
  breaker.passed, breaker.probers, breaker.failed = 0, 0, 0
  breaker.moved, breaker.cleared = true, state == 'closed'
end

-- Take what the process knows where it is later than what is stored; whether the store had forgotten it.
local function merge(breaker, ask, was_there)
  local forgotten = not was_there and (ask.generation > 0 or ask.stamp > 0)
  if ask.generation > breaker.generation and ask.generation <= now + YEAR then
    breaker.generation, breaker.state, breaker.pause, breaker.why = ask.generation, ask.state, ask.pause, ask.why
    breaker.ends = ask.state == 'open' and now + ask.left or 0
    breaker.passed, breaker.probers, breaker.failed = 0, 0, 0
    breaker.moved = true
  end
  if ask.stamp > breaker.stamp and ask.stamp <= now + YEAR then
    breaker.force, breaker.stamp = ask.force, ask.stamp
    breaker.moved = true
  end
  breaker.generation = math.max(breaker.generation, 1)
  return forgotten
end

-- What a process is to know of it.
local function state_of(breaker)
  return {
    generation = breaker.generation, state = breaker.state, left = math.max(0, breaker.ends - now), pause = breaker.pause,
    why = breaker.why, force = breaker.force, stamp = breaker.stamp,
  }
end
