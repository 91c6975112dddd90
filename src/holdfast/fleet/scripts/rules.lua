-- When the fleet's breaker opens and closes, and who may probe.

-- How many of `all` processes are a quorum: more than the share, or all of them.
local function enough(quorum, all)
  return math.max(1, math.min(all, math.floor(quorum * all + 1e-9) + 1))
end

-- One bad host has only its own word: besides the totals it takes a share of the processes that saw traffic. A store that forgot the
-- fleet has heard of few of them yet; `peers` is how many the process knows of.
local function reason_to_open(rule, keys, sums, peers)
  local quorum = enough(rule.quorum, math.max(redis.call('ZCARD', keys.seen), peers))
  if rule.rows and redis.call('ZCARD', keys.shut) >= quorum then
    return 'rows'
  end
  if sums.calls < rule.min_calls or redis.call('ZCARD', keys.bad) < quorum then
    return nil
  end
  if rule.failure_rate and sums.failures / sums.calls >= rule.failure_rate then
    return 'failures'
  end
  if rule.slow_rate and sums.slow / sums.calls >= rule.slow_rate then
    return 'slow'
  end
end

local function vote(key, member, is_so, was_so)
  if is_so then
    redis.call('ZADD', key, plain(now), member)
  elseif was_so then
    redis.call('ZREM', key, member)
  end
end

-- What this process's probes found since it last said so. A failed probe opens the breaker for all where a quorum of those that
-- probed failed; of the others it only makes the successes start anew, and the process keeps its own breaker open. Who was cut off, and
-- had enough successes of its own to close, closes it for all.
local function settle(breaker, rule, ask, last)
  if ask.proven then
    move(breaker, 'closed', 0, 'probes')
    return
  end
  local here = last and last.generation == breaker.generation
  local passed = math.max(0, ask.passed - (here and last.passed or 0))
  local failed = ask.failed > (here and last.failed or 0)
  if passed == 0 and not failed then
    return
  end
  breaker.changed = true
  if not here or last.passed + last.failed == 0 then
    breaker.probers = breaker.probers + 1
  end
  breaker.passed = breaker.passed + passed
  if failed then
    breaker.passed = 0
    if not here or last.failed == 0 then
      breaker.failed = breaker.failed + 1
    end
    if breaker.failed >= enough(rule.quorum, breaker.probers) then
      local longer = math.floor(math.min(2 * breaker.pause, rule.open_for_max) * (1 - ask.jitter))
      move(breaker, 'open', math.max(longer, rule.open_for), 'probe')
    end
  elseif breaker.passed >= rule.probes_to_close then
    move(breaker, 'closed', 0, 'probes')
  end
end

-- Leases for probes. At most `max_probes` are out, whoever has them; one that nobody renewed has ended, and one from far ahead is a
-- stranger's, or from before the server's clock was set back. A process may keep what it runs, since nobody can take that back.
local function lend(breaker, rule, ask, member, key)
  if ask.held == 0 and ask.wanted == 0 then
    if ask.had > 0 then
      redis.call('HDEL', key, member)
    end
    return 0
  end
  local others, stored = 0, redis.call('HGETALL', key)
  for place = 1, #stored, 2 do
    local lease = numbers(stored[place + 1], 2)
    if not lease or lease[1] < 1 or lease[2] <= now or lease[2] > now + 10 * rule.lease then
      redis.call('HDEL', key, stored[place])
      if not lease then
        ignore('a lease')
      end
    elseif stored[place] ~= member then
      others = others + lease[1]
    end
  end
  local open = breaker.force == 'none' and breaker.state == 'open' and now >= breaker.ends
  local wanted = ask.held + ((open or ask.alone) and ask.wanted or 0)
  local lent = math.max(ask.running, math.min(wanted, rule.max_probes - others))
  if lent > 0 then
    redis.call('HSET', key, member, plain(lent) .. ' ' .. plain(now + rule.lease))
    redis.call('PEXPIRE', key, plain(rule.lease))
  else
    redis.call('HDEL', key, member)
  end
  return lent
end
