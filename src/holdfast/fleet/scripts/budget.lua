-- The fleet's budget: over the window, retries stay within ratio * calls + floor, for all processes together.
--
-- A process spends what its own calls have earned since it was last here, and what it is lent. A lease is counted as retries when it
-- is given: so it never waits for anybody's report, and of a process that died it slides out of the window like any other retry.
local function spend(ask, last, calls, key, processes)
  local rule, purse = ask.terms, ask.purse
  local counts = read_counts(key, {'calls', 'retries'}, rule.span)
  add(counts, 'calls', calls)
  if last then
    add(counts, 'retries', math.max(0, math.min(ask.spent - last.spent, ask.window.retries)))
  else
    add(counts, 'retries', ask.window.retries)
  end
  add(counts, 'retries', -purse.back)
  local sums = counts.sums
  local left = math.floor(rule.ratio * sums.calls + rule.floor + 1e-9) - sums.retries
  local lent = 0
  if left > 0 then
    -- What it was asked for lately, and no less than its part of half of what there is.
    local fair = math.min(purse.most, math.floor(left / (2 * math.max(1, processes))))
    lent = math.min(left, math.max(0, math.max(purse.wanted, fair) - purse.held))
    add(counts, 'retries', lent)
  end
  write_counts(counts)
  return {lent = lent, calls = sums.calls, retries = sums.retries, left = math.max(0, left - lent)}
end
