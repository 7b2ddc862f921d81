-- The published routes, compiled: which operation of which API a call is. As gateway/routes.py.

local cjson = require 'cjson.safe'
local find = string.find
local re_find = ngx.re.find

local _M = {}

local function operation(label, weights, most)
  local units = {calls = 1}
  for meter, count in pairs(weights) do units[meter] = count end
  for meter, count in pairs(most) do units[meter] = count end
  local pairs_of_units, names, members = {}, {}, {}
  for meter in pairs(units) do if meter ~= 'calls' then names[#names + 1] = meter end end
  table.sort(names)
  table.insert(names, 1, 'calls')
  for _, meter in ipairs(names) do
    pairs_of_units[#pairs_of_units + 1] = meter
    pairs_of_units[#pairs_of_units + 1] = units[meter]
    members[#members + 1] = '"' .. meter .. '":' .. units[meter]
  end
  return {label = label, units = pairs_of_units,
    units_json = '{' .. table.concat(members, ',') .. '}'}
end

local function pattern(template)
  local escaped = string.gsub(template, '[%.%+%*%?%(%)%[%]%^%$|\\]', '\\%0')
  return '^' .. string.gsub(escaped, '{[^{}]*}', '[^/]+') .. '$'
end

local function compile(row)
  local api = {slug = row.slug, static = {}, templated = {}, max_body = row.max_body,
    longest_ms = (row.idle_s + row.connect_s + row.total_s) * 1000}
  if row.unlisted == 'forward' then api.other = operation('other', {}, {}) end
  for _, listed in ipairs(row.operations) do
    local method, template, weights, most = unpack(listed)
    local found = operation(method .. ' ' .. template, weights, most)
    if find(template, '{', 1, true) then
      api.templated[method] = api.templated[method] or {}
      table.insert(api.templated[method], {pattern(template), found})
    else
      api.static[method .. ' ' .. template] = found
    end
  end
  return api
end

function _M.table_of(version, blob)
  local apis = {}
  for _, row in ipairs(cjson.decode(blob)) do apis[row.slug] = compile(row) end
  return {version = version, apis = apis}
end

-- The operation of a path, or nil.
function _M.operation(api, method, path)
  local found = api.static[method .. ' ' .. path]
  if found then return found end
  local listed = api.templated[method]
  if listed then
    for i = 1, #listed do
      if re_find(path, listed[i][1], 'jo') then return listed[i][2] end
    end
  end
  return api.other
end

return _M
