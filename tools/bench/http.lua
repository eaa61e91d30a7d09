-- wrk: requests prepared once, sent in turn. Arguments: a token; `post`, `again` or `latest`; a time.
local prepared, turn = {}, 0

function init(args)
  local token, what = args[1], args[2]
  local headers = { ["authorization"] = "Bearer " .. token, ["content-type"] = "application/json" }
  for sensor = 0, 31 do
    if what == "post" then
      prepared[#prepared + 1] = wrk.format("POST", "/v1/sensors/bench.u" .. sensor .. "/readings", headers, '{"value": 612.25}')
    elseif what == "again" then
      -- the same reading each time: everything that a POST takes but the disk
      local body = '{"value": 612.25, "time": "' .. args[3] .. '"}'
      prepared[#prepared + 1] = wrk.format("POST", "/v1/sensors/bench.a" .. sensor .. "/readings", headers, body)
    else
      prepared[#prepared + 1] = wrk.format("GET", "/v1/readings:latest?sensor_ids=bench.u" .. sensor, headers)
    end
  end
end

function request()
  turn = turn % #prepared + 1
  return prepared[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('{"requests": %d, "seconds": %f, "p50_us": %d, "p99_us": %d, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
