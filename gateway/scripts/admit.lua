-- Admits one call or says why not: one step, all or nothing, in integers.
-- The names and shapes of records are those of keys/records.py.
--
-- KEYS[1]  the key's record
-- ARGV     as named below, then meter, units, meter, units, …
--
-- Returns  {'routes'}       other routes are published: nothing was charged
--          {'judge', revision, restrictions}
--                           the key is restricted: judge the call and ask again, likewise
--          {'unavailable'}  this Redis is not filled, or its stream is full
--          {code, wait_s}   refused; code '' is admitted, both then followed by
--          key, account, mode, plan, and where limits were reached by
--          burst, window_s, calls left, reset_s, of the rate that is met first;
--          quota or nil, units left or nil, window_s, reset_s, of the quota that is met first;
--          1 if that quota is met before the rate
--
-- An admitted call leaves an open, for settle.lua to close: account, key, mode, period start,
-- terms, admitted at (µs), API, operation, units, deadline (ms), and what settle.lua gives back
-- besides units, as JSON or nothing.

local tag, event, api, operation = ARGV[1], ARGV[2], ARGV[5], ARGV[6]
local matched_under = ARGV[3]  -- the version of the routes
local judged_under, judgement = ARGV[4], ARGV[12]  -- the key's revision, '' is not judged; a code
local deadline_ms = tonumber(ARGV[7])  -- from now
local most_entries = tonumber(ARGV[8])  -- in the stream: at so many nothing is admitted
local refusal, refusal_status = ARGV[9], tonumber(ARGV[10])  -- decided beforehand; '' is none
local units_json = ARGV[11]
local scope = ARGV[13]  -- of the operation; '' is none
local meters = {}
for i = 14, #ARGV, 2 do
  meters[#meters + 1] = {name = ARGV[i], units = tonumber(ARGV[i + 1])}
end

local clock = redis.call('TIME')
local now_s = tonumber(clock[1])
local now_us = now_s * 1000000 + tonumber(clock[2])
local now_ms = math.floor(now_us / 1000)

local ready = redis.call('GET', 'ready:' .. tag)
local routes = redis.call('HGET', 'routes:' .. tag, 'version')
if not ready or not routes or redis.call('XLEN', 'usage:' .. tag) >= most_entries then
  return {'unavailable'}
end
if routes ~= matched_under then return {'routes'} end

-- Periods, expiries and the ledger go by a time that a demo may move ahead (keys.clock): `at`.
-- Rates and deadlines go by `now`.
local ahead_s = tonumber(ready) or 0
local at_s, at_us = now_s + ahead_s, now_us + ahead_s * 1000000

-- ------------------------------------------------------------------ who asks

local key, account, mode, key_state, expires_ms, own = unpack(redis.call('HMGET', KEYS[1],
  'id', 'account', 'mode', 'state', 'expires_ms', 'own'))
if not key then return {'unknown_key', 0} end

local record = 'account:' .. tag .. ':' .. account
local wanted = {'state', 'suspended', 'ends_ms', 'plan', 'terms', 'rate', 'burst', 'periods',
  'more'}
local before_meters = #wanted
for _, meter in ipairs(meters) do
  wanted[#wanted + 1] = 'limit:' .. meter.name
  wanted[#wanted + 1] = 'included:' .. meter.name
end
local found = redis.call('HMGET', record, unpack(wanted))
local state, suspended, ends_ms, plan, terms, rate, burst, periods, more = unpack(found)
if not state then return {'unavailable'} end

-- What few keys and accounts have is read of those only.
local revision, restrictions, key_rate, key_burst, key_quota = '', '', '', '', ''
if own == '1' then
  revision, restrictions, key_rate, key_burst, key_quota = unpack(redis.call('HMGET', KEYS[1],
    'rev', 'restrictions', 'rate', 'burst', 'quota'))
end
local apis, slots, credits, grants, cap, prices = '', '', '', '', '', ''
if more == '1' then
  apis, slots, credits, grants, cap, prices = unpack(redis.call('HMGET', record,
    'apis', 'concurrency', 'credits', 'grants', 'cap', 'prices'))
end

-- A refusal costs nothing; it is counted, and the latest are kept for the account to see.
local function refuse(code, status, wait_s, ...)
  local minute = at_s - at_s % 60
  redis.call('HINCRBY', 'refused:' .. tag, table.concat({account, key, code, minute}, '|'), 1)
  local latest = 'refusals:' .. tag .. ':' .. account
  redis.call('LPUSH', latest, cjson.encode({
    at_ms = math.floor(at_us / 1000), key = key, api = api, op = operation, code = code, status = status}))
  redis.call('LTRIM', latest, 0, 19)
  redis.call('EXPIRE', latest, 86400)
  return {code, wait_s, key, account, mode, plan, ...}
end

local function has_passed(moment_ms)
  return moment_ms and moment_ms ~= '' and at_us >= tonumber(moment_ms) * 1000
end

if key_state ~= 'active' then return refuse('revoked_key', 401, 0) end
if has_passed(expires_ms) then return refuse('expired_key', 401, 0) end
if suspended == '1' then return refuse('account_suspended', 403, 0) end
if state == 'ended' or has_passed(ends_ms) then return refuse('subscription_ended', 402, 0) end
if state ~= 'active' then return refuse('payment_required', 402, 0) end
if restrictions ~= '' then
  if judged_under ~= revision then return {'judge', revision, restrictions} end
  if judgement ~= '' then return refuse(judgement, 403, 0) end
end
if refusal ~= '' then return refuse(refusal, refusal_status, 0) end
if apis ~= '' and not string.find(apis, ',' .. api .. ',', 1, true) then
  return refuse('api_not_in_plan', 403, 0)
end
if scope ~= '' then
  local scopes = redis.call('HGET', record, 'scopes') or ''
  if not string.find(scopes, ',' .. scope .. ',', 1, true) then
    return refuse('operation_not_allowed', 403, 0)
  end
end

-- ------------------------------------------------------------------ what is left

-- The period that `at` lies in; after the last known boundary it is as long as the one before.
local function billing_period()
  local before, start
  for text in string.gmatch(periods, '%d+') do
    local boundary = tonumber(text)
    if boundary > at_s then return start, boundary end
    before, start = start, boundary
  end
  return start, start and start + (before and start - before or 2678400)
end

local period_start, period_end = billing_period()
if not period_start or period_end <= at_s then return {'unavailable'} end
local billing_start, billing_end = period_start, period_end
local test_quota
if mode == 'test' then
  period_start = at_s - at_s % 86400
  period_end = period_start + 86400
  test_quota = redis.call('HGET', record, 'test_quota')
end

-- GCRA: a bucket is kept as the time at which it will be full again. Its reset is when it lets
-- the next call through, or, as long as it does, when it will be full.
local function read(bucket)
  local room = bucket.interval * bucket.burst - (bucket.full - now_us)
  bucket.left = math.max(math.floor(room / bucket.interval), 0)
  bucket.reset_us = bucket.left == 0 and bucket.interval - room or bucket.full - now_us
end

local function bucket_of(name, rate, burst)
  local bucket = {name = name, burst = tonumber(burst),
    interval = math.max(math.floor(1000000 / tonumber(rate)), 1),
    full = math.max(tonumber(redis.call('GET', name)) or 0, now_us)}
  read(bucket)
  return bucket
end

local buckets = {bucket_of('gcra:' .. tag .. ':a:' .. account, rate, burst)}
if key_rate ~= '' then
  buckets[2] = bucket_of('gcra:' .. tag .. ':k:' .. key, key_rate, key_burst)
end

local function met_first()
  local one, other = buckets[1], buckets[2]
  if other and (other.left < one.left
      or other.left == one.left and other.reset_us > one.reset_us) then return other end
  return one
end

local bucket = met_first()

-- Of all quotas the one that lets the fewest further calls like this through is met first; of
-- two like that the one that lasts longer.
local quota
local function count(limit, used, units, starts, ends)
  local left = math.max(limit - used, 0)
  local calls = units == 0 and math.huge or math.floor(left / units)
  if not quota or calls < quota.calls or (calls == quota.calls and ends > quota.ends) then
    quota = {limit = limit, left = left, units = units, calls = calls, starts = starts, ends = ends}
  end
end

local counters = 'used:' .. tag .. ':' .. account .. ':' .. mode .. ':' .. period_start .. ':'
local included_left = false  -- of the first meter, where further units are billed
for i, meter in ipairs(meters) do
  local limit, included = found[before_meters + 2 * i - 1], found[before_meters + 2 * i]
  if mode == 'test' then
    limit, included = meter.name == 'calls' and test_quota, false
  end
  meter.used = tonumber(redis.call('GET', counters .. meter.name)) or 0
  meter.included = included and tonumber(included) or 0
  if limit and limit ~= '' then
    count(tonumber(limit), meter.used, meter.units, period_start, period_end)
  elseif included and i == 1 then
    included_left = meter.included - meter.used
  end
end
local key_counter
if key_quota ~= '' then
  key_counter = 'used:' .. tag .. ':' .. key .. ':' .. mode .. ':' .. billing_start .. ':calls'
  for _, meter in ipairs(meters) do
    if meter.name == 'calls' then
      local used = tonumber(redis.call('GET', key_counter)) or 0
      count(tonumber(key_quota), used, meter.units, billing_start, billing_end)
    end
  end
end

-- What is left, as headers tell it, once this call has taken its part or none.
local function limits(taken)
  local first = quota and quota.calls - taken <= bucket.left and 1 or 0
  local window_s = math.ceil(bucket.burst * bucket.interval / 1000000)
  local reset_s = math.ceil(bucket.reset_us / 1000000)
  if quota then
    return bucket.burst, window_s, bucket.left, reset_s,
      quota.limit, quota.left - taken * quota.units, quota.ends - quota.starts,
      quota.ends - at_s, first
  end
  return bucket.burst, window_s, bucket.left, reset_s, false,
    included_left and math.max(included_left - taken * meters[1].units, 0),
    period_end - period_start, period_end - at_s, 0
end

if quota and quota.calls == 0 then
  return refuse('quota_exceeded', 429, quota.ends - at_s, limits(0))
end

-- Minor units that so many units of a meter cost, rounded like a bill's line. A segment says:
-- from, base, step, rise, per; past `from`, each started step of units adds rise / per.
local function cost(segments, past)
  local amount = 0
  for _, segment in ipairs(segments) do
    local from, base, step, rise, per = unpack(segment)
    if past <= from then break end
    local exact = base + math.ceil((past - from) / step) * rise
    amount = math.floor((2 * exact + per) / (2 * per))
  end
  return amount
end

if cap ~= '' and mode == 'live' then
  local priced = cjson.decode(prices)
  local earlier = priced.earlier  -- what the period had cost before its terms changed
  if earlier == cjson.null or earlier.period_start ~= period_start then
    earlier = {spent_minor = 0, used = {}}
  end
  local left, reached = earlier.included or {}, earlier.past or {}
  local before, after = earlier.spent_minor, earlier.spent_minor
  for _, price in ipairs(priced.costs) do
    local used, units
    for _, meter in ipairs(meters) do
      if meter.name == price.meter then used, units = meter.used, meter.units end
    end
    local past = (used or tonumber(redis.call('GET', counters .. price.meter)) or 0)
      - (earlier.used[price.meter] or 0) - (left[price.meter] or price.included)
    local from = reached[price.meter] or 0
    before = before + cost(price.segments, math.max(past, 0) + from)
    after = after + cost(price.segments, math.max(past + (units or 0), 0) + from)
  end
  if after > before and after > tonumber(cap) then
    return refuse('spend_cap_reached', 402, 0, limits(0))
  end
end

-- Credits: by meter {price, units past the included ones, grant, amount, grant, amount, …}.
local draws
if credits ~= '' and mode == 'live' then
  local held
  for _, meter in ipairs(meters) do
    local price = cjson.decode(credits)[meter.name]
    local past = math.max(meter.used + meter.units - meter.included, 0)
      - math.max(meter.used - meter.included, 0)
    if price and past > 0 then
      if not held then
        held = {}
        for id, amount, expires_s in string.gmatch(grants, '(%d+):(%d+):(%d*)') do
          if expires_s == '' or at_s < tonumber(expires_s) then
            local drawn = tonumber(redis.call('GET', 'drawn:' .. tag .. ':' .. id)) or 0
            held[#held + 1] = {id = id, left = tonumber(amount) - drawn}
          end
        end
      end
      local due, draw = past * price, {price, past}
      for _, grant in ipairs(held) do
        local part = math.min(grant.left, due)
        if part > 0 then
          grant.left, due = grant.left - part, due - part
          draw[#draw + 1], draw[#draw + 2] = grant.id, part
        end
      end
      if due > 0 then return refuse('credits_exhausted', 402, 0, limits(0)) end
      draws = draws or {}
      draws[meter.name] = draw
    end
  end
end

if bucket.left == 0 then
  return refuse('rate_limited', 429, math.ceil(bucket.reset_us / 1000000), limits(0))
end
local running = 'running:' .. tag .. ':' .. account
if slots ~= '' then
  redis.call('ZREMRANGEBYSCORE', running, '-inf', now_ms)  -- what dead gateways left
  if redis.call('ZCARD', running) >= tonumber(slots) then
    return refuse('concurrency_limited', 429, 1, limits(0))
  end
end

-- ------------------------------------------------------------------ admitted

for _, charged in ipairs(buckets) do
  charged.full = charged.full + charged.interval
  redis.call('SET', charged.name, charged.full, 'PX', math.ceil((charged.full - now_us) / 1000))
  read(charged)
end
bucket = met_first()

local function charge(name, units, ends)
  if redis.call('INCRBY', name, units) == units then
    redis.call('EXPIREAT', name, ends - ahead_s + 3456000)
  end
end
for _, meter in ipairs(meters) do
  charge(counters .. meter.name, meter.units, period_end)
  if key_counter and meter.name == 'calls' then
    charge(key_counter, meter.units, billing_end)
  end
end
for _, draw in pairs(draws or {}) do
  for i = 3, #draw, 2 do redis.call('INCRBY', 'drawn:' .. tag .. ':' .. draw[i], draw[i + 1]) end
end

local deadline = now_ms + deadline_ms
if slots ~= '' then redis.call('ZADD', running, deadline, event) end
local back = ''
if key_counter or draws or slots ~= '' then
  back = cjson.encode({key_period = key_counter and billing_start, draws = draws,
    slot = slots ~= '' or nil})
end
redis.call('HSET', 'open:' .. tag, event, table.concat({account, key, mode, period_start, terms,
  string.format('%d', at_us), api, operation, units_json, deadline, back}, '\t'))
return {'', 0, key, account, mode, plan, limits(1)}
