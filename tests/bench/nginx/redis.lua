-- A small RESP2 client over cosockets: one command on a pooled connection, or many in one write.
-- Replies are strings, numbers, false for nil, and tables of these; an error is {err = text}.

local byte, find, sub = string.byte, string.find, string.sub
local concat, tonumber = table.concat, tonumber
local tcp = ngx.socket.tcp

local POOL_SIZE, IDLE_MS, TIMEOUT_MS = 512, 60000, 2000
local MOST_BYTES = 65536  -- read at once

local _M = {}

local host, port, password
local options = {pool_size = POOL_SIZE, backlog = POOL_SIZE}

function _M.use(given_host, given_port, given_password)
  host, port, password = given_host, given_port, given_password
end

local parts = {}

-- The bytes of a command given as a table of strings and numbers.
function _M.encode(command)
  local count = #command
  local n = 3
  parts[1], parts[2], parts[3] = '*', count, '\r\n'
  for i = 1, count do
    local text = command[i]
    if type(text) == 'number' then text = string.format('%d', text) end
    parts[n + 1], parts[n + 2], parts[n + 3] = '$', #text, '\r\n'
    parts[n + 4], parts[n + 5] = text, '\r\n'
    n = n + 5
  end
  return concat(parts, '', 1, n)
end

-- The reply that begins at `from` and the position behind it; nothing while it is incomplete.
local function parse(data, from)
  local line_end = find(data, '\r\n', from, true)
  if not line_end then return nil end
  local kind = byte(data, from)
  local line = sub(data, from + 1, line_end - 1)
  local after = line_end + 2
  if kind == 36 then  -- $
    local size = tonumber(line)
    if size < 0 then return false, after end
    if #data < after + size + 1 then return nil end
    return sub(data, after, after + size - 1), after + size + 2
  elseif kind == 58 then  -- :
    return tonumber(line), after
  elseif kind == 42 then  -- *
    local items = {}
    for i = 1, tonumber(line) do
      local item
      item, after = parse(data, after)
      if item == nil then return nil end
      items[i] = item
    end
    return items, after
  elseif kind == 45 then  -- -
    return {err = line}, after
  end
  return line, after
end

function _M.connect()
  local socket = tcp()
  socket:settimeout(TIMEOUT_MS)
  local ok, why = socket:connect(host, port, options)
  if not ok then return nil, why end
  if socket:getreusedtimes() == 0 then
    local replies
    replies, why = _M.exchange(socket, _M.encode({'AUTH', password}), 1)
    if not replies or replies[1] ~= 'OK' then
      socket:close()
      return nil, why or replies[1].err
    end
  end
  return socket
end

function _M.release(socket)
  socket:setkeepalive(IDLE_MS, POOL_SIZE)
end

-- Writes what was encoded and reads `count` replies; nil and the reason when the connection fails.
function _M.exchange(socket, encoded, count)
  local sent, why = socket:send(encoded)
  if not sent then return nil, why end
  local replies, data, at = {}, '', 1
  for i = 1, count do
    local reply, after = parse(data, at)
    while reply == nil do
      local more
      more, why = socket:receiveany(MOST_BYTES)
      if not more then return nil, why end
      data = at > #data and more or sub(data, at) .. more
      at = 1
      reply, after = parse(data, at)
    end
    replies[i], at = reply, after
  end
  return replies
end

-- One command on a pooled connection; nil and the reason when the connection fails.
function _M.call(command)
  local socket, why = _M.connect()
  if not socket then return nil, why end
  local replies
  replies, why = _M.exchange(socket, _M.encode(command), 1)
  if not replies then
    socket:close()
    return nil, why
  end
  _M.release(socket)
  return replies[1]
end

return _M
