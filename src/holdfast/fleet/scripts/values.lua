-- What is stored is read as if a stranger had written it: what none of our scripts could have written is left out, and reported.
local LARGEST = 2 ^ 53
local YEAR = 365 * 86400 * 1000
local ignored, is_ignored = {}, {}

local function ignore(what)
  if not is_ignored[what] then
    ignored[#ignored + 1], is_ignored[what] = what, true
  end
end

-- A whole number, or nil.
local function whole(text)
  local value = tonumber(text)
  if value and value == math.floor(value) and math.abs(value) < LARGEST then
    return value
  end
end

-- The whole numbers of a text like '3 14 15', or nil where there are not `amount` of them.
local function numbers(text, amount)
  local found = {}
  for word in string.gmatch(text, '%S+') do
    found[#found + 1] = whole(word)
    if #found > amount then
      return nil
    end
  end
  return #found == amount and found or nil
end

-- cjson and tostring write large numbers as 1.7e+12.
local function plain(value)
  return string.format('%.0f', value)
end

-- Delete those of the keys that are of another type than ours; whether there were any.
local function mend(keys)
  local found = false
  for key, kind in pairs(keys) do
    local actual = redis.call('TYPE', key).ok
    if actual ~= 'none' and actual ~= kind then
      redis.call('DEL', key)
      ignore('a key of type ' .. actual)
      found = true
    end
  end
  return found
end

-- Tell all processes that a policy's state has changed. Who may not publish does without: changes come with the next round.
local function announce(policy)
  redis.pcall('PUBLISH', ARGV[2], policy)
end

-- An error of a command, with the code it had (READONLY, OOM): raised again it would be one of the script.
local function failure(outcome)
  local text = type(outcome) == 'table' and outcome.err or tostring(outcome)
  return redis.error_reply((string.gsub(text, '^.-user_script:%d+: ', '')))
end
