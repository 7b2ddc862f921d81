-- The client's side of one run: the keys in `args` take turns; figures are printed as one line of
-- JSON.

local requests, turn = {}, 0

function init(args)
  for i, key in ipairs(args) do
    requests[i] = wrk.format('GET', nil, {Authorization = 'Bearer ' .. key, Host = 'bench.test'})
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"completed": %d, "duration_us": %d, "errors": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
