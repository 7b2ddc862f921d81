-- Sends the settlements of a worker from a light thread of its own, many in one write.
--
-- `hold_seconds` 0 sends what there is as soon as Redis has answered the write before, and sends
-- again what it has not confirmed (settle.lua may be repeated). Above 0 it collects for so long
-- and forgets what could not be sent: cheaper, and calls can be lost.

local redis = require 'redis'
local semaphore = require 'ngx.semaphore'

local concat = table.concat
local BATCHES = 1000  -- of one timer: its memory is freed when it ends
local MOST = 1024  -- settlements in one write
local PAUSE_SECONDS = 0.1  -- before a connection is tried again

local _M = {}

local hold_seconds
local waiting = {}  -- encoded commands
local wake = semaphore.new()
local is_awake = false

local function note_errors(replies)
  for _, reply in ipairs(replies) do
    if type(reply) == 'table' then ngx.log(ngx.ERR, 'settle: ', reply.err) end
  end
end

local function send(batch, socket)
  local why
  if not socket then
    socket, why = redis.connect()
  end
  if socket then
    local replies
    replies, why = redis.exchange(socket, concat(batch), #batch)
    if replies then
      note_errors(replies)
      return socket
    end
    socket:close()
  end
  ngx.log(ngx.WARN, 'settle: ', why)
  if hold_seconds > 0 then return nil end
  for _, command in ipairs(batch) do waiting[#waiting + 1] = command end
  ngx.sleep(PAUSE_SECONDS)
  return nil
end

local function next_batch()
  if #waiting <= MOST then
    local batch = waiting
    waiting = {}
    return batch
  end
  local batch, rest = {}, {}
  for i, command in ipairs(waiting) do
    if i <= MOST then batch[i] = command else rest[i - MOST] = command end
  end
  waiting = rest
  return batch
end

local function run()
  local socket
  for _ = 1, BATCHES do
    if #waiting == 0 then
      if ngx.worker.exiting() then return end
      is_awake = false
      wake:wait(1)
      is_awake = true
    end
    if hold_seconds > 0 and not ngx.worker.exiting() then ngx.sleep(hold_seconds) end
    if #waiting > 0 then socket = send(next_batch(), socket) end
  end
  if socket then redis.release(socket) end
  ngx.timer.at(0, run)
end

function _M.start(given_hold_seconds)
  hold_seconds = given_hold_seconds
  ngx.timer.at(0, run)
end

function _M.submit(command)
  waiting[#waiting + 1] = redis.encode(command)
  if not is_awake then
    is_awake = true
    wake:post(1)
  end
end

return _M
