-- Admits one call or says why not: one step, all or nothing, in integers.
-- The names and shapes of records are those of keys/records.py.
--
-- KEYS[1]  the key's record
-- ARGV     as named below, then meter, units, …; headers speak of the first meter first
--
-- Returns  {'routes'}       other routes are published: nothing was charged
--          {'unavailable'}  this Redis is not filled, or its stream is full
--          {code, wait_s}   refused; code '' is admitted, both then followed by
--          key, account, mode, plan, and where limits were reached by
--          rate, burst, rate left, rate reset_s, quota limit or nil, quota left, window_s, reset_s
--
-- An admitted call leaves an open and its deadline, for settle.lua to close.

local tag, event, api, operation = ARGV[1], ARGV[2], ARGV[4], ARGV[5]
local matched_under = ARGV[3]  -- the version of the routes
local deadline_ms = tonumber(ARGV[6])  -- from now
local most_entries = tonumber(ARGV[7])  -- in the stream: at so many nothing is admitted
local refusal, refusal_status = ARGV[8], tonumber(ARGV[9])  -- decided beforehand; '' is none
local units_json = ARGV[10]
local meters = {}
for i = 11, #ARGV, 2 do
  meters[#meters + 1] = {name = ARGV[i], units = tonumber(ARGV[i + 1])}
end

local clock = redis.call('TIME')
local now_s = tonumber(clock[1])
local now_us = now_s * 1000000 + tonumber(clock[2])

local routes = redis.call('HGET', 'routes:' .. tag, 'version')
if redis.call('EXISTS', 'ready:' .. tag) == 0 or not routes
    or redis.call('XLEN', 'usage:' .. tag) >= most_entries then
  return {'unavailable'}
end
if routes ~= matched_under then return {'routes'} end

local key, account, mode, key_state, expires_ms, key_rate, key_burst = unpack(redis.call('HMGET',
  KEYS[1], 'id', 'account', 'mode', 'state', 'expires_ms', 'rate', 'burst'))
if not key then return {'unknown_key', 0} end

local wanted = {'state', 'suspended', 'ends_ms', 'plan', 'terms', 'rate', 'burst', 'periods',
  'test_quota'}
local before_meters = #wanted
for _, meter in ipairs(meters) do
  wanted[#wanted + 1] = 'limit:' .. meter.name
  wanted[#wanted + 1] = 'included:' .. meter.name
end
local found = redis.call('HMGET', 'account:' .. tag .. ':' .. account, unpack(wanted))
local state, suspended, ends_ms, plan, terms, rate, burst, periods, test_quota = unpack(found)
if not state then return {'unavailable'} end

-- A refusal costs nothing; it is counted, and the latest are kept for the account to see.
local function refuse(code, status, wait_s, ...)
  local minute = string.format('%d', now_s - now_s % 60)
  redis.call('HINCRBY', 'refused:' .. tag, table.concat({account, key, code, minute}, '|'), 1)
  local latest = 'refusals:' .. tag .. ':' .. account
  redis.call('LPUSH', latest, cjson.encode({
    at_ms = math.floor(now_us / 1000), key = key, api = api, op = operation,
    code = code, status = status}))
  redis.call('LTRIM', latest, 0, 19)
  redis.call('EXPIRE', latest, 86400)
  return {code, wait_s, key, account, mode, plan, ...}
end

local function has_passed(moment_ms)
  return moment_ms and moment_ms ~= '' and now_us >= tonumber(moment_ms) * 1000
end

if key_state ~= 'active' then return refuse('revoked_key', 401, 0) end
if has_passed(expires_ms) then return refuse('expired_key', 401, 0) end
if suspended == '1' then return refuse('account_suspended', 403, 0) end
if state == 'ended' or has_passed(ends_ms) then return refuse('subscription_ended', 402, 0) end
if state ~= 'active' then return refuse('payment_required', 402, 0) end
if refusal ~= '' then return refuse(refusal, refusal_status, 0) end

-- The period that `now` lies in; after the last known boundary it is as long as the one before.
local function current_period()
  local before, start
  for text in string.gmatch(periods, '%d+') do
    local boundary = tonumber(text)
    if boundary > now_s then return start, boundary end
    before, start = start, boundary
  end
  return start, start and start + (before and start - before or 2678400)
end

local period_start, period_end
if mode == 'test' then
  period_start = now_s - now_s % 86400
  period_end = period_start + 86400
else
  period_start, period_end = current_period()
  if not period_start or period_end <= now_s then return {'unavailable'} end
end

-- GCRA: a bucket is kept as the time at which it will be full again.
local function look(name, rate, burst)
  rate, burst = tonumber(rate), tonumber(burst)
  local interval = math.max(math.floor(1000000 / rate), 1)
  local full = math.max(tonumber(redis.call('GET', name)) or 0, now_us)
  local room = interval * burst - (full - now_us)
  return {name = name, rate = rate, burst = burst, interval = interval, full = full,
    left = math.max(math.floor(room / interval), 0), wait_us = interval - room}
end

local buckets = {look('gcra:' .. tag .. ':a:' .. account, rate, burst)}
local told = buckets[1]  -- headers speak of the one that is met first
if key_rate and key_rate ~= '' then
  local own = look('gcra:' .. tag .. ':k:' .. key, key_rate, key_burst)
  buckets[2] = own
  if own.left < told.left or (own.left == told.left and own.wait_us > told.wait_us) then
    told = own
  end
end

-- Quotas, meter by meter; headers speak of the first one that has a limit.
local prefix = string.format('used:%s:%s:%s:%d:', tag, account, mode, period_start)
local exhausted, quota, quota_left, quota_units = false, false, false, 0
for i, meter in ipairs(meters) do
  local limit, included = found[before_meters + 2 * i - 1], found[before_meters + 2 * i]
  if mode == 'test' then
    limit, included = meter.name == 'calls' and test_quota, false
  end
  local used = tonumber(redis.call('GET', prefix .. meter.name)) or 0
  if limit and limit ~= '' then
    limit = tonumber(limit)
    exhausted = used + meter.units > limit
    if exhausted or not quota then
      quota, quota_left, quota_units = limit, math.max(limit - used, 0), meter.units
    end
    if exhausted then break end
  elseif included and i == 1 then
    quota_left, quota_units = math.max(tonumber(included) - used, 0), meter.units
  end
end

-- What is left, as headers tell it, with a bucket's reset and the quota's.
local function limits(calls_left, reset_us, units_left)
  return told.rate, told.burst, calls_left, math.ceil(reset_us / 1000000),
    quota, units_left, period_end - period_start, period_end - now_s
end

local wait_us = told.left == 0 and told.wait_us or told.full - now_us
if exhausted then
  return refuse('quota_exceeded', 429, period_end - now_s, limits(told.left, wait_us, quota_left))
end
if told.left == 0 then
  return refuse('rate_limited', 429, math.ceil(wait_us / 1000000), limits(0, wait_us, quota_left))
end

for _, bucket in ipairs(buckets) do
  bucket.full = bucket.full + bucket.interval
  redis.call('SET', bucket.name, string.format('%d', bucket.full),
    'PX', string.format('%d', math.ceil((bucket.full - now_us) / 1000)))
end
for _, meter in ipairs(meters) do
  if redis.call('INCRBY', prefix .. meter.name, meter.units) == meter.units then
    redis.call('EXPIREAT', prefix .. meter.name, string.format('%d', period_end + 3456000))
  end
end
redis.call('HSET', 'open:' .. tag, event, table.concat({account, key, mode,
  string.format('%d', period_start), terms, string.format('%d', now_us), api, operation,
  units_json}, '\t'))
redis.call('ZADD', 'due:' .. tag,
  string.format('%d', math.floor(now_us / 1000) + deadline_ms), event)
return {'', 0, key, account, mode, plan, limits(told.left - 1, told.full - now_us,
  quota_left and math.max(quota_left - quota_units, 0))}
