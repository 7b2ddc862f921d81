-- Puts off the deadlines of calls that go on. One without an open is settled already: left alone.
--
-- KEYS     1 opens
-- ARGV     1 hash tag, 2 the lease in ms from now, 3… event ids
-- Returns  how many opens were renewed

local tag = ARGV[1]
local clock = redis.call('TIME')
local now_ms = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local deadline = string.format('%d', now_ms + tonumber(ARGV[2]))

local renewed = 0
for i = 3, #ARGV do
  local event = ARGV[i]
  local open = redis.call('HGET', KEYS[1], event)
  if open then
    local before, account, back = string.match(open, '^(([^\t]*)\t.*\t)%d+\t([^\t]*)$')
    redis.call('HSET', KEYS[1], event, before .. deadline .. '\t' .. back)
    if back ~= '' and cjson.decode(back).slot then
      redis.call('ZADD', 'running:' .. tag .. ':' .. account, deadline, event)
    end
    renewed = renewed + 1
  end
end
return renewed
