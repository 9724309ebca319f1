#!lua flags=allow-oom
--[[ open — put a partition under a new epoch after Redis restarted, failed over or lost everything. The caller has
compared it with Postgres; this script repeats the comparison of what it was told with what is there.
KEYS   1 meta 2 ledger 3 open 4 lapses 5 slots
ARGV   1 mode: 'resume' (everything is there), 'rebuild' (nothing is: accounts will be loaded), 'loaded' (they are)
       2 epoch 3 epoch expected (0: no meta) 4 flushed_pseq 5 flushed_epoch 6 caller_ms
REPLY  {code, now_ms} ]]
--include lib/codes.lua
local meta_key, ledger_key = KEYS[1], KEYS[2]
local mode, epoch, expected = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local flushed, flushed_epoch = tonumber(ARGV[4]), tonumber(ARGV[5])

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local incarnation = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local m = redis.call('HMGET', meta_key, 'epoch', 'pseq', 'last_ms', 'down_ms', 'state', 'torn')
local had, pseq, state = tonumber(m[1] or 0), tonumber(m[2] or 0), m[5]
now = math.max(now, tonumber(m[3] or 0))

-- An opening writes the clock down, and it never goes back: a wrong one would stay.
if math.abs(now - tonumber(ARGV[6])) > CLOCK_SKEW_MAX_MS then return {CLOCK, now} end

local function text(n) return string.format('%.0f', n) end

if m[6] then return {TORN, now} end
if mode == 'resume' then
  if had ~= expected or had >= epoch or state ~= 'open' then return {EPOCH, now} end
  if pseq < flushed then return {REGRESSED, now} end
  local down = tonumber(m[4] or 0) + now - tonumber(m[3])
  redis.call('HSET', meta_key, 'epoch', text(epoch), 'inc', incarnation, 'last_ms', text(now), 'down_ms', text(down),
    'flushed', text(flushed), 'flushed_epoch', text(flushed_epoch))
elseif mode == 'rebuild' then
  if had ~= expected or (m[1] and (state ~= 'loading' or had >= epoch)) then return {EPOCH, now} end
  if redis.call('EXISTS', ledger_key) == 1 then return {REGRESSED, now} end
  -- Without a meta, but with what it governed, Redis is not empty: it lost something, and a person must look.
  if not m[1] and redis.call('EXISTS', unpack(KEYS, 3)) > 0 then return {REGRESSED, now} end
  redis.call('HSET', meta_key, 'format', '1', 'epoch', text(epoch), 'pseq', text(flushed), 'flushed', text(flushed),
    'flushed_epoch', text(flushed_epoch), 'inc', incarnation, 'last_ms', text(now), 'down_ms', '0',
    'base', text(flushed), 'outcomes_from', text(flushed > 0 and now or 0), 'state', 'loading')
else
  if had ~= epoch or state ~= 'loading' then return {EPOCH, now} end
  redis.call('HSET', meta_key, 'state', 'open', 'last_ms', text(now))
end
return {OK, now}
