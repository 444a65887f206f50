-- Posts images in turn with wrk, in a closed loop or after pauses, and prints one line of JSON at the end.
-- Arguments: mean pause of a connection in ms (0: none), then the files to post.

local requests, next_request, mean_pause = {}, 0, 0

function init(arguments)
  mean_pause = tonumber(arguments[1])
  math.randomseed(1)
  for index = 2, #arguments do
    local file = assert(io.open(arguments[index], "rb"))
    requests[index - 1] = wrk.format("POST", nil, { ["Content-Type"] = "image/png" }, file:read("*a"))
    file:close()
  end
  if mean_pause > 0 then
    -- Exponential pauses on many connections: arrivals of a Poisson process. Servers close connections after 5 s.
    function delay()
      return math.min(4000, math.floor(0.5 - math.log(1 - math.random()) * mean_pause))
    end
  end
end

function request()
  next_request = next_request % #requests + 1
  return requests[next_request]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"seconds":%.6f,"p50_ms":%.4f,"p99_ms":%.4f,"refused":%d,"broken":%d,"late":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write, errors.timeout
  ))
end
