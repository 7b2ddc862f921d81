-- Closes one call and appends its one entry to the stream of usage.
-- Without the open it does nothing: it may be repeated, and is, after a reconnect.
--
-- KEYS  1 opens, 2 the stream
-- ARGV  1 hash tag, 2 event id, 3 how the call ended as JSON (gateway.entries), 4… meter and the
--       units by which what was charged at admission is corrected, 0 or less
-- Returns 1, or 0 when there was no open

local tag, event, ended = ARGV[1], ARGV[2], ARGV[3]
local open = redis.call('HGET', KEYS[1], event)
if not open then return 0 end
redis.call('HDEL', KEYS[1], event)

local plain = string.byte(open, -1) == 9  -- nothing after the last tab
if plain and #ARGV == 3 then
  redis.call('XADD', KEYS[2], '*', 'id', event, 'open', open, 'end', ended)
  return 1
end

local account, key, mode, period =
  string.match(open, '^([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)')
local back = plain and {} or cjson.decode(string.match(open, '\t([^\t]*)$'))

local function correct(holder, period, meter, units)
  local used = table.concat({'used', tag, holder, mode, period, meter}, ':')
  if redis.call('EXISTS', used) == 1 then redis.call('INCRBY', used, units) end
end

local corrected = {}
for i = 4, #ARGV, 2 do
  local meter, units = ARGV[i], tonumber(ARGV[i + 1])
  corrected[meter] = units
  correct(account, period, meter, units)
  if back.key_period and meter == 'calls' then correct(key, back.key_period, meter, units) end
end
if back.slot then redis.call('ZREM', 'running:' .. tag .. ':' .. account, event) end

if not back.draws then
  redis.call('XADD', KEYS[2], '*', 'id', event, 'open', open, 'end', ended)
  return 1
end

-- Units that were not kept give their credits back, to the grants that they came from, the last
-- one first: included units are kept before those that credits paid for.
local drawn = {}
for meter, draw in pairs(back.draws) do
  local price, past = draw[1], draw[2]
  local due = math.min(past, -(corrected[meter] or 0)) * price
  for i = #draw - 1, 3, -2 do
    local grant, part = draw[i], math.min(draw[i + 1], due)
    due = due - part
    if part < draw[i + 1] then drawn[grant] = (drawn[grant] or 0) + draw[i + 1] - part end
    local name = 'drawn:' .. tag .. ':' .. grant
    if part > 0 and redis.call('EXISTS', name) == 1 then redis.call('DECRBY', name, part) end
  end
end
redis.call('XADD', KEYS[2], '*', 'id', event, 'open', open, 'end', ended,
  'credits', cjson.encode(drawn))
return 1
