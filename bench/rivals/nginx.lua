-- The metering of the nginx target: the scripts of naive, one EVALSHA before the request is forwarded and one after.
local redis = require "nginx.redis"

local M = {}

local format, sub = string.format, string.sub

-- A connection to Redis rests in its worker's pool between two calls.
local IDLE_MS, POOL, TIMEOUT_MS = 3600000, 4096, 3000

local host, port, price
local accounts = {} -- by API key
local scripts = {}  -- name → {sha, source}
local holds = 0

-- setup runs once, in the master: workers share what it made until they write to it.
function M.setup(s)
  host, port, price = s.host, s.port, s.price
  for i = 0, s.accounts - 1 do
    accounts[format("%s%07d", s.key_prefix, i)] = format("bench-%07d", i)
  end
  for name, sha in pairs(s.scripts) do
    local file = assert(io.open(s.dir .. "/" .. name .. ".lua"))
    scripts[name] = { sha = sha, source = file:read("*a") }
    file:close()
  end
end

-- call runs a script. Redis that was restarted does not know it, and is given it once more.
local function call(name, ...)
  local script = scripts[name]
  local r = redis:new()
  r:set_timeout(TIMEOUT_MS)
  local ok, err = r:connect(host, port)
  if not ok then
    return nil, err
  end
  local reply
  reply, err = r:evalsha(script.sha, ...)
  if reply == false and sub(err, 1, 8) == "NOSCRIPT" then
    reply, err = r:eval(script.source, ...)
  end
  if reply == nil then
    return nil, err
  end
  r:set_keepalive(IDLE_MS, POOL)
  if reply == false then
    return nil, err
  end
  return reply
end

local function refuse(status, message)
  ngx.status = status
  ngx.header["Content-Type"] = "text/plain"
  ngx.print('{"error":"' .. message .. '"}')
  return ngx.exit(status)
end

local function account_of(header)
  return header and sub(header, 1, 7) == "Bearer " and accounts[sub(header, 8)] or nil
end

local function reserve(account)
  holds = holds + 1
  local hold = format("%d-%d-%x", ngx.time(), ngx.worker.pid(), holds)
  local prefix = "rival:{" .. account .. "}:"
  local drawn, err = call("reserve", 3, prefix .. "order", prefix .. "grants", prefix .. "hold:" .. hold,
    format("%.0f", ngx.now() * 1000), price)
  return drawn, err, hold
end

local function settle(account, hold, charge)
  local prefix = "rival:{" .. account .. "}:"
  return call("settle", 2, prefix .. "grants", prefix .. "hold:" .. hold, charge)
end

-- serve is the life of a request.
function M.serve()
  local account = account_of(ngx.var.http_authorization)
  if not account then
    return refuse(401, "unknown API key")
  end
  ngx.req.read_body()
  local drawn, err, hold = reserve(account)
  if not drawn then
    ngx.log(ngx.ERR, "reserve: ", err)
    return refuse(503, "metering is not available")
  end
  if drawn == 0 then
    return refuse(402, "not enough credits")
  end
  local answer = ngx.location.capture("/forward", { method = ngx["HTTP_" .. ngx.req.get_method()], always_forward_body = true })
  local settled
  settled, err = settle(account, hold, (answer.status < 400 and not answer.truncated) and 1 or 0)
  if settled ~= 1 then
    ngx.log(ngx.ERR, "settle: ", err)
    return refuse(503, "metering is not available")
  end
  ngx.status = answer.status
  for name, value in pairs(answer.header) do
    ngx.header[name] = value
  end
  ngx.print(answer.body)
end

return M
