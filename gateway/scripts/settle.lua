-- Closes one call and appends its one entry to the stream of usage.
-- Without the open it does nothing: it may be repeated, and is, after a reconnect.
--
-- KEYS  1 opens, 2 their deadlines, 3 the stream
-- ARGV  1 hash tag, 2 event id, 3 how the call ended as JSON (gateway.entries), 4… meter and the
--       units by which what was charged at admission is corrected
-- Returns 1, or 0 when there was no open

local open = redis.call('HGET', KEYS[1], ARGV[2])
if not open then return 0 end

redis.call('HDEL', KEYS[1], ARGV[2])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('XADD', KEYS[3], '*', 'id', ARGV[2], 'open', open, 'end', ARGV[3])

if #ARGV > 3 then
  local account, mode, period = string.match(open, '^([^\t]*)\t[^\t]*\t([^\t]*)\t([^\t]*)')
  for i = 4, #ARGV, 2 do
    local used = table.concat({'used', ARGV[1], account, mode, period, ARGV[i]}, ':')
    if redis.call('EXISTS', used) == 1 then redis.call('INCRBY', used, ARGV[i + 1]) end
  end
end
return 1
