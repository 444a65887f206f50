-- Posts images in turn with wrk, in a closed loop, after pauses or at a beat, and prints one line of JSON at the end.
-- Arguments: `loop`, `pauses` or `beat`; the mean pause of a connection, or the time from beat to beat, in ms (of the
-- loop nothing); then the files to post.

local ffi = require("ffi")
ffi.cdef("typedef struct { long s, ns; } moment; int clock_gettime(int, moment *);")

local requests, next_request = {}, 0

local function now_ms()
  local moment = ffi.new("moment")
  ffi.C.clock_gettime(1, moment)
  return tonumber(moment.s) * 1e3 + tonumber(moment.ns) / 1e6
end

function init(arguments)
  local kind, time = arguments[1], tonumber(arguments[2])
  math.randomseed(1)
  for index = 3, #arguments do
    local file = assert(io.open(arguments[index], "rb"))
    requests[index - 2] = wrk.format("POST", nil, { ["Content-Type"] = "image/png" }, file:read("*a"))
    file:close()
  end
  if kind == "beat" then
    -- The next beat is that of whichever connection is free first; those beats that found none are left out.
    local beat = now_ms()
    function delay()
      local now = now_ms()
      beat = math.max(beat + time, now)
      return math.floor(beat - now + 0.5)
    end
  elseif kind == "pauses" then
    -- Exponential pauses on many connections: arrivals of a Poisson process. Servers close connections after 5 s.
    function delay()
      return math.min(4000, math.floor(0.5 - math.log(1 - math.random()) * time))
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
