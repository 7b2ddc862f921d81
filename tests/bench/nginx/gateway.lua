-- The gateway's job in nginx: who calls, may they, what is left; and, after the response, the
-- one entry of the call. The same scripts on the same Redis as Keystile.

local cjson = require 'cjson.safe'
local redis = require 'redis'
local routes = require 'routes'
local settler = require 'settler'
local token = require 'token'

local sub, find, byte = string.sub, string.find, string.byte
local floor = math.floor

local TAG = '{p00}'
local MOST_ENTRIES = 1000000
local SLACK_MS = 60000
local RELOADS = 3

local _M = {}

local problems  -- code → {status, body}
local admit_text, admit_sha, settle_text, settle_sha
local table_of_routes = {version = '', apis = {}}

local function contents(name)
  local file = assert(io.open(name))
  local text = file:read('*a')
  file:close()
  return text
end

local function hex_sha1(text)
  return (string.gsub(ngx.sha1_bin(text), '.', function(character)
    return string.format('%02x', byte(character))
  end))
end

-- Runs once, in the master.
function _M.init()
  local scripts = os.getenv('BENCH_SCRIPTS')
  admit_text, settle_text = contents(scripts .. '/admit.lua'), contents(scripts .. '/settle.lua')
  admit_sha, settle_sha = hex_sha1(admit_text), hex_sha1(settle_text)
  problems = assert(cjson.decode(contents(os.getenv('BENCH_PROBLEMS'))))
  token.use(os.getenv('KEY_PEPPER'))
  redis.use('127.0.0.1', tonumber(os.getenv('BENCH_REDIS_PORT')),
    os.getenv('BENCH_REDIS_PASSWORD'))
end

-- Runs in each worker. What `hold_seconds` means is in settler.lua.
function _M.start(hold_seconds)
  settler.start(hold_seconds)
  ngx.timer.at(0, function()
    assert(redis.call({'SCRIPT', 'LOAD', admit_text}))
    assert(redis.call({'SCRIPT', 'LOAD', settle_text}))
  end)
end

-- ------------------------------------------------------------------ what the scripts are given

-- admit.lua: one key, then its ARGV, in the order of gateway/admit.py. Nothing else in this
-- folder knows them.
local function admit_arguments(digest, event_id, api, operation, refusal)
  local command = {'EVALSHA', admit_sha, 1, 'key:' .. TAG .. ':' .. digest,
    TAG, event_id, table_of_routes.version, '', api and api.slug or '',
    operation and operation.label or '', (api and api.longest_ms or 0) + SLACK_MS, MOST_ENTRIES,
    refusal or '', refusal and problems[refusal].status or 0,
    operation and operation.units_json or '{"calls":0}', '', ''}
  local n = #command
  local units = operation and operation.units or {'calls', 0}
  for i = 1, #units do command[n + i] = units[i] end
  return command
end

-- settle.lua: two keys, then its ARGV, in the order of gateway/settle.py, likewise.
local function settle_arguments(event_id, operation, final)
  local command = {'EVALSHA', settle_sha, 2, 'open:' .. TAG, 'usage:' .. TAG,
    TAG, event_id,
    '{"outcome":"completed","status":' .. final.status .. ',"code":"","billable":'
      .. (final.is_charged and final.is_live and 'true' or 'false')
      .. ',"units":' .. operation.units_json .. ',"meta":{},"latency_us":' .. final.latency_us
      .. ',"upstream_us":' .. final.upstream_us .. ',"in":0,"out":' .. final.response_bytes .. '}'}
  if not final.is_charged then
    for i = 1, #operation.units, 2 do
      command[#command + 1] = operation.units[i]
      command[#command + 1] = -operation.units[i + 1]
    end
  end
  return command
end

-- ------------------------------------------------------------------ admission

local function refuse(code, wait_s)
  local problem = problems[code]
  ngx.status = problem.status
  local header = ngx.header
  header['content-type'] = 'application/problem+json'
  header['content-length'] = #problem.body
  header['cache-control'] = 'no-store'
  if wait_s and wait_s > 0 then header['retry-after'] = wait_s end
  if problem.status == 401 then header['www-authenticate'] = 'Bearer realm="keystile"' end
  ngx.print(problem.body)
  return ngx.exit(ngx.HTTP_OK)
end

local function load_routes()
  local reply = redis.call({'HMGET', 'routes:' .. TAG, 'version', 'blob'})
  if reply and reply[1] then table_of_routes = routes.table_of(reply[1], reply[2]) end
end

local function limit_headers(reply, header)
  local burst, burst_window_s, left, reset_s = reply[7], reply[8], reply[9], reply[10]
  local quota, quota_left, window_s, quota_reset_s = reply[11], reply[12], reply[13], reply[14]
  local policy = '"burst";q=' .. burst .. ';w=' .. burst_window_s
  local state = '"burst";r=' .. left .. ';t=' .. reset_s
  local limit = burst
  if quota and quota_left then
    policy = policy .. ', "quota";q=' .. quota .. ';w=' .. window_s
    state = state .. ', "quota";r=' .. quota_left .. ';t=' .. quota_reset_s
    if reply[15] == 1 then limit, left, reset_s = quota, quota_left, quota_reset_s end
  end
  header['ratelimit-policy'] = policy
  header['ratelimit'] = state
  header['x-ratelimit-limit'] = limit
  header['x-ratelimit-remaining'] = left
  header['x-ratelimit-reset'] = reset_s
  if quota_left then header['keystile-quota-remaining'] = quota_left end
end

local function key_of(var)
  local text = var.http_x_api_key
  if text then return text end
  text = var.http_authorization
  if not text then return nil end
  if find(text, '^[Bb][Ee][Aa][Rr][Ee][Rr] ') then return sub(text, 8) end
  return nil
end

-- What a call is by the routes of now: API, operation, and the refusal if it is neither.
local function match(method, uri)
  local slash = find(uri, '/', 2, true) or #uri + 1
  local api = table_of_routes.apis[sub(uri, 2, slash - 1)]
  if not api then return nil, nil, 'unknown_api' end
  local operation = routes.operation(api, method, slash > #uri and '/' or sub(uri, slash))
  if not operation then return api, nil, 'unknown_operation' end
  return api, operation, nil
end

-- The access phase: returns when the call may go on.
function _M.admit()
  local var = ngx.var
  local text = key_of(var)
  if not text then return refuse('missing_key') end
  if not token.is_key(text) then return refuse('malformed_key') end
  if sub(text, 9, 10) ~= '00' then return refuse('unknown_key') end

  local digest, event_id = token.digest(text), token.event_id()
  local method, uri = ngx.req.get_method(), var.uri
  local reply, operation
  for _ = 1, RELOADS do
    local api, refusal
    api, operation, refusal = match(method, uri)
    local command = admit_arguments(digest, event_id, api, operation, refusal)
    reply = redis.call(command)
    if reply and reply.err and sub(reply.err, 1, 8) == 'NOSCRIPT' then
      command[1], command[2] = 'EVAL', admit_text
      reply = redis.call(command)
    end
    if not reply or reply[1] ~= 'routes' then break end
    load_routes()
  end
  local code = reply and reply[1]
  if not code or code == 'routes' or code == 'unavailable' then
    return refuse('limits_unavailable', 1)
  end
  local header = ngx.header
  if reply[7] then limit_headers(reply, header) end
  if reply[5] then header['keystile-mode'] = reply[5] end
  if code ~= '' then return refuse(code, reply[2]) end

  header['keystile-event'] = event_id
  var.keystile_key, var.keystile_account, var.keystile_mode = reply[3], reply[4], reply[5]
  var.keystile_plan, var.keystile_event = reply[6], event_id
  ngx.ctx.admission = {event_id = event_id, operation = operation, is_live = reply[5] == 'live'}
end

-- ------------------------------------------------------------------ settlement

local function seconds_to_us(text)
  return floor((tonumber(text) or 0) * 1000000)
end

-- The log phase: the response is out.
function _M.settle()
  local admission = ngx.ctx.admission
  if not admission then return end
  local var, status = ngx.var, ngx.status
  settler.submit(settle_arguments(admission.event_id, admission.operation, {
    status = status,
    is_charged = status < 500 and status ~= 408 and status ~= 429 and status ~= 499,
    is_live = admission.is_live,
    latency_us = seconds_to_us(var.request_time),
    upstream_us = seconds_to_us(var.upstream_response_time),
    response_bytes = var.body_bytes_sent,
  }))
end

return _M
