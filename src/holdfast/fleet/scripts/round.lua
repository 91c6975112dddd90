-- One round of one policy for one process: what it saw since its last one, and what it is to know. ARGV: the question in JSON, and
-- the channel on which changes of state are told. The answer is JSON.
local keys = {breaker = KEYS[1], calls = KEYS[2], members = KEYS[3], seen = KEYS[4], bad = KEYS[5], shut = KEYS[6], probes = KEYS[7], budget = KEYS[8], check = KEYS[9]}
local TYPES = {
  [keys.breaker] = 'hash', [keys.calls] = 'hash', [keys.members] = 'hash', [keys.seen] = 'zset',
  [keys.bad] = 'zset', [keys.shut] = 'zset', [keys.probes] = 'hash', [keys.budget] = 'hash',
}
local SAID = {'generation', 'calls', 'failures', 'slow', 'passed', 'failed', 'requests', 'spent', 'bad', 'shut'}

-- What the process said last. Its counts only rise, so a round that is sent twice, or whose answer is lost, counts once.
local function last_words(member)
  local text = redis.call('HGET', keys.members, member)
  if not text then
    return nil
  end
  local said = numbers(text, #SAID)
  if not said then
    ignore('what a process said')
    return nil
  end
  local last = {}
  for place, field in ipairs(SAID) do
    last[field] = said[place]
  end
  return last
end

local function say(ask, last, traffic, span)
  local words = {}
  for place, field in ipairs(SAID) do
    words[place] = plain(ask[field])
  end
  if traffic or last then
    redis.call('HSET', keys.members, ask.member, table.concat(words, ' '))
    redis.call('PEXPIRE', keys.members, plain(2 * span))
  end
  if traffic then
    redis.call('ZADD', keys.seen, plain(now), ask.member)
    redis.call('PEXPIRE', keys.seen, plain(2 * span))
  end
end

-- A process that leaves is not of the quorum from now on. What it counted stays.
local function part(member)
  redis.call('HDEL', keys.members, member)
  for _, key in ipairs({keys.seen, keys.bad, keys.shut}) do
    redis.call('ZREM', key, member)
  end
end

-- Neither are processes that have seen no traffic for a window.
local function retire(span)
  local before = plain(now - span)
  local gone = redis.call('ZRANGEBYSCORE', keys.seen, '-inf', before, 'LIMIT', 0, 100)
  if #gone > 0 then
    redis.call('HDEL', keys.members, unpack(gone))
    redis.call('ZREM', keys.seen, unpack(gone))
  end
  redis.call('ZREMRANGEBYSCORE', keys.bad, '-inf', before)
  redis.call('ZREMRANGEBYSCORE', keys.shut, '-inf', before)
  for _, key in ipairs({keys.seen, keys.bad, keys.shut}) do -- from before the server's clock was set back, or a stranger's
    redis.call('ZREMRANGEBYSCORE', key, plain(now + span), '+inf')
  end
end

local function since(last, field, ask)
  local most = ask.window[field]
  return last and math.max(0, math.min(ask[field] - last[field], most)) or most
end

local function breaker_round(ask, last, answer)
  local rule = ask.rule
  local breaker, was_there = read_breaker(keys.breaker)
  answer.forgotten = merge(breaker, ask, was_there)
  if breaker.ends > now + rule.open_for_max then
    breaker.ends, breaker.changed = now + rule.open_for_max, true
  end
  local counts = read_counts(keys.calls, {'calls', 'failures', 'slow'}, rule.span)
  local current = ask.generation == breaker.generation or ask.generation == 0
  if breaker.state == 'closed' and breaker.force == 'none' and current then
    for _, kind in ipairs(counts.kinds) do
      add(counts, kind, since(last, kind, ask))
    end
    vote(keys.bad, ask.member, ask.bad > 0, last and last.bad > 0)
    vote(keys.shut, ask.member, ask.shut > 0, last and last.shut > 0)
    if ask.bad > 0 or ask.shut > 0 then
      retire(rule.span)
      local why = reason_to_open(rule, keys, counts.sums, ask.peers)
      if why then
        move(breaker, 'open', rule.open_for, why)
      end
    end
  elseif breaker.state == 'open' and breaker.force == 'none' and ask.generation == breaker.generation then
    settle(breaker, rule, ask, last)
  end
  if breaker.cleared then
    redis.call('DEL', keys.calls, keys.bad, keys.shut)
  else
    write_counts(counts)
  end
  if counts.changed then
    redis.call('PEXPIRE', keys.bad, plain(2 * rule.span))
    redis.call('PEXPIRE', keys.shut, plain(2 * rule.span))
  end
  if breaker.moved or breaker.changed or not was_there then
    write_breaker(keys.breaker, breaker)
  end
  keep(keys.breaker, breaker)
  if breaker.moved then
    announce(ask.policy)
  end
  local lent = lend(breaker, rule, ask, ask.member, keys.probes)
  answer.breaker = state_of(breaker)
  answer.breaker.lent = lent
  for kind, sum in pairs(counts.sums) do
    answer.breaker[kind] = sum
  end
end

local function round(ask)
  local answer = {}
  if ask.check > 0 then -- whoever comes back asks whether the server takes what is written; a quiet round would write nothing
    redis.call('SET', keys.check, '', 'PX', 1000)
  end
  local last = last_words(ask.member)
  if ask.rule then
    breaker_round(ask, last, answer)
  end
  local span = math.max(ask.rule and ask.rule.span or 0, ask.terms and ask.terms.span or 0)
  local requests = since(last, 'requests', ask)
  local traffic = requests > 0 or since(last, 'calls', ask) > 0
  if ask.leaving > 0 then
    part(ask.member)
  else
    say(ask, last, traffic, span)
    if ask.sweep > 0 then
      retire(span)
    end
  end
  answer.processes = redis.call('ZCARD', keys.seen)
  if ask.terms then
    answer.budget = spend(ask, last, requests, keys.budget, answer.processes)
  end
  answer.ignored = table.concat(ignored, ', ')
  return cjson.encode(answer)
end

local done, outcome = pcall(round, cjson.decode(ARGV[1]))
if not done then
  if not mend(TYPES) then
    return failure(outcome)
  end
  outcome = round(cjson.decode(ARGV[1]))
end
return outcome
