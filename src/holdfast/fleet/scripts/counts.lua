-- Counts over a sliding window, in the fields of one hash: the sum of each kind, and what each slice of the window adds to it. Reading
-- and adding cost the same however much was counted; a slice is looked at again when it leaves the window.
local SLICES = 20

local function slice_of(span)
  return math.floor(now * SLICES / span)
end

local function empty(counts, span)
  counts.span, counts.slice = span, slice_of(span)
  for _, kind in ipairs(counts.kinds) do
    counts.sums[kind] = 0
  end
end

-- Take off what the slices between `newest` and now added the last time round.
local function forget(counts, newest)
  local fields = {}
  for index = newest + 1, counts.slice do
    for _, kind in ipairs(counts.kinds) do
      fields[#fields + 1] = kind .. ':' .. index % SLICES
    end
  end
  local values = redis.call('HMGET', counts.key, unpack(fields))
  for place, field in ipairs(fields) do
    local kind = string.match(field, '%a+')
    counts.sums[kind] = math.max(0, counts.sums[kind] - (whole(values[place]) or 0))
  end
  redis.call('HDEL', counts.key, unpack(fields))
  counts.changed = true
end

-- The span is set by whoever finds nothing counted: two versions of a program with different windows do not undo each other's counts.
local function read_counts(key, kinds, span)
  local stored = redis.call('HMGET', key, 'span', 'slice', unpack(kinds))
  local counts = {key = key, kinds = kinds, sums = {}, added = {}, span = whole(stored[1]), slice = whole(stored[2])}
  local sound = counts.span and counts.span > 0 and counts.slice
  for place, kind in ipairs(kinds) do
    counts.sums[kind] = whole(stored[place + 2])
    sound = sound and counts.sums[kind] and counts.sums[kind] >= 0
  end
  local newest, slice = counts.slice, sound and slice_of(counts.span)
  if not sound or math.abs(slice - newest) >= SLICES then
    if not sound and (stored[1] or stored[2]) then
      ignore('counts')
    end
    redis.call('DEL', key)
    empty(counts, span)
  elseif newest < slice then -- otherwise the server's clock was set back a little, or nothing is to be done
    counts.slice = slice
    forget(counts, newest)
  end
  return counts
end

local function add(counts, kind, amount)
  amount = math.max(amount, -counts.sums[kind])
  counts.sums[kind] = counts.sums[kind] + amount
  counts.added[kind] = (counts.added[kind] or 0) + amount
  counts.changed = counts.changed or amount ~= 0
end

local function write_counts(counts)
  if not counts.changed then
    return
  end
  local fields, slot = {}, ':' .. counts.slice % SLICES
  for place, kind in ipairs(counts.kinds) do
    fields[place] = kind .. slot
  end
  local slices = redis.call('HMGET', counts.key, unpack(fields))
  local row = {'span', plain(counts.span), 'slice', plain(counts.slice)}
  for place, kind in ipairs(counts.kinds) do
    row[#row + 1] = kind
    row[#row + 1] = plain(counts.sums[kind])
    row[#row + 1] = fields[place]
    row[#row + 1] = plain((whole(slices[place]) or 0) + (counts.added[kind] or 0))
  end
  redis.call('HSET', counts.key, unpack(row))
  redis.call('PEXPIRE', counts.key, plain(2 * counts.span))
end
