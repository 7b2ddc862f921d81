-- What a key may do now and what is left of it. Writes nothing.
--
-- KEYS[1]  the key's record
-- ARGV     1 hash tag, 2 API
-- Returns  {'unavailable'}, {'unknown_key'}, {code, key, account, mode, plan} of a key that is
--          refused whatever it asks for, or with code '' those and further: the key's revision,
--          its restrictions, the version of the routes, a JSON object for gateway.limits, and the
--          spend cap as it is published, or ''

local tag, api = ARGV[1], ARGV[2]
local clock = redis.call('TIME')
local now_s = tonumber(clock[1])
local now_us = now_s * 1000000 + tonumber(clock[2])

local version = redis.call('HGET', 'routes:' .. tag, 'version')
local ready = redis.call('GET', 'ready:' .. tag)
if not ready or not version then return {'unavailable'} end
local ahead_s = tonumber(ready) or 0  -- as in admit.lua
local at_s, at_us = now_s + ahead_s, now_us + ahead_s * 1000000

local function hash(name)
  local fields, flat = {}, redis.call('HGETALL', name)
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

local key = hash(KEYS[1])
if not key.id then return {'unknown_key'} end
local account = hash('account:' .. tag .. ':' .. key.account)
if not account.state then return {'unavailable'} end

local function has_passed(moment_ms)
  return moment_ms ~= '' and at_us >= tonumber(moment_ms) * 1000
end

-- As in admit.lua, in its order.
local code = ''
if key.state ~= 'active' then code = 'revoked_key'
elseif has_passed(key.expires_ms) then code = 'expired_key'
elseif account.suspended == '1' then code = 'account_suspended'
elseif account.state == 'ended' or has_passed(account.ends_ms) then code = 'subscription_ended'
elseif account.state ~= 'active' then code = 'payment_required'
elseif (account.apis or '') ~= ''
    and not string.find(account.apis, ',' .. api .. ',', 1, true) then code = 'api_not_in_plan' end
local head = {code, key.id, key.account, key.mode, account.plan}
if code ~= '' then return head end

local billing_start, billing_end, before
for text in string.gmatch(account.periods, '%d+') do
  local boundary = tonumber(text)
  if boundary > at_s then billing_end = boundary break end
  before, billing_start = billing_start, boundary
end
if not billing_start then return {'unavailable'} end
billing_end = billing_end or billing_start + (before and billing_start - before or 2678400)
local period_start, period_end = billing_start, billing_end
if key.mode == 'test' then
  period_start = at_s - at_s % 86400
  period_end = period_start + 86400
end

local function number(name) return tonumber(redis.call('GET', name)) or 0 end

local function bucket(name, rate, burst)
  local interval = math.max(math.floor(1000000 / tonumber(rate)), 1)
  local room = interval * tonumber(burst) - math.max(number(name) - now_us, 0)
  return {per_second = rate, burst = tonumber(burst),
    remaining = math.max(math.floor(room / interval), 0)}
end

local counters = 'used:' .. tag .. ':' .. key.account .. ':' .. key.mode .. ':'
local used, limits, included = {}, {}, {}
for field, value in pairs(account) do
  local meter = string.match(field, '^included:(.*)$')
  if meter and (key.mode == 'live' or meter == 'calls') then
    used[meter] = number(counters .. period_start .. ':' .. meter)
    included[meter] = tonumber(value)
    limits[meter] = tonumber(account['limit:' .. meter])
    if key.mode == 'test' then
      included[meter], limits[meter] = nil, tonumber(account.test_quota)
    end
  end
end

local told = {
  now = at_s, period_start = period_start, period_end = period_end,
  billing_start = billing_start, billing_end = billing_end,
  rate = bucket('gcra:' .. tag .. ':a:' .. key.account, account.rate, account.burst),
  used = used, limits = limits, included = included}
if (key.rate or '') ~= '' then
  told.key_rate = bucket('gcra:' .. tag .. ':k:' .. key.id, key.rate, key.burst)
end
if (key.quota or '') ~= '' then
  told.key_quota = tonumber(key.quota)
  told.key_used = number('used:' .. tag .. ':' .. key.id .. ':' .. key.mode .. ':' ..
    billing_start .. ':calls')
end
if (account.concurrency or '') ~= '' then
  told.concurrency = tonumber(account.concurrency)
  told.running = redis.call('ZCOUNT', 'running:' .. tag .. ':' .. key.account,
    math.floor(now_us / 1000), '+inf')
end
if key.mode == 'live' and (account.credits or '') ~= '' then
  local balance, next_expiry = 0
  for id, amount, expires_s in string.gmatch(account.grants, '(%d+):(%d+):(%d*)') do
    expires_s = tonumber(expires_s)
    local left = tonumber(amount) - number('drawn:' .. tag .. ':' .. id)
    if left > 0 and not (expires_s and expires_s <= at_s) then
      balance = balance + left
      if expires_s and expires_s < (next_expiry or math.huge) then next_expiry = expires_s end
    end
  end
  told.credits, told.credits_expire = balance, next_expiry
end
head[6], head[7], head[8], head[9] = key.rev, key.restrictions or '', version, cjson.encode(told)
head[10] = key.mode == 'live' and account.prices or ''  -- as it is: cjson writes 14 digits only
return head
