--[[ open — put a partition under a new epoch after Redis restarted, failed over or lost everything. The caller has
compared it with Postgres; this function repeats the comparison of what it was told with what is there.
KEYS   1 meta 2 ledger 3 open 4 slots
ARGV   1 mode: 'resume' (everything is there), 'rebuild' (nothing is: accounts will be loaded), 'loaded' (they are)
       2 epoch 3 epoch expected (0: no meta) 4 flushed_pseq 5 flushed_epoch 6 caller_ms 7 how far a test clock is ahead
REPLY  {code, now_ms} ]]

local function resume(m, now, epoch, expected, flushed)
  if not m or m.epoch ~= expected or m.epoch >= epoch or m.state ~= OPEN then return EPOCH end
  if m.pseq < flushed then return REGRESSED end
  m.down_ms = m.down_ms + now - m.last_ms
  return OK
end

-- Without a meta, but with what it governed, Redis is not empty: it lost something, and a person must look.
local function rebuild(m, now, epoch, expected, flushed, keys)
  if (m and m.epoch or 0) ~= expected or (m and (m.state ~= LOADING or m.epoch >= epoch)) then return EPOCH end
  if call('EXISTS', keys[2]) == 1 then return REGRESSED end
  if not m and call('EXISTS', unpack(keys, 3)) > 0 then return REGRESSED end
  return OK, {
    state = LOADING, torn = 0, pseq = flushed, down_ms = 0, base_pseq = flushed, noted = 0, noted_ms = 0,
    outcomes_from = flushed > 0 and now or 0,
  }
end

local function open(keys, args)
  begin()
  local mode, epoch, expected = args[1], tonumber(args[2]), tonumber(args[3])
  local flushed, flushed_epoch = tonumber(args[4]), tonumber(args[5])
  local clock = call('TIME')
  local now = clock[1] * 1000 + floor(clock[2] / 1000) + tonumber(args[7])
  local packed, m, code = call('GET', keys[1]), nil, OK
  if packed then
    m = {}
    unpack_meta(m, packed)
    now = max(now, m.last_ms)
  end

  -- An opening writes the clock down, and it never goes back: a wrong one would stay.
  if abs(now - tonumber(args[6])) > CLOCK_SKEW_MAX_MS then return {CLOCK, now} end
  if m and m.torn ~= 0 then return {TORN, now} end
  if mode == 'loaded' then
    if not m or m.epoch ~= epoch or m.state ~= LOADING then return {EPOCH, now} end
    m.state = OPEN
  else
    if mode == 'resume' then code = resume(m, now, epoch, expected, flushed)
    else code, m = rebuild(m, now, epoch, expected, flushed, keys) end
    if code ~= OK then return {code, now} end
    m.epoch, m.flushed, m.flushed_epoch = epoch, flushed, flushed_epoch
    m.inc = replication_id()
  end
  m.last_ms = now
  call('SET', keys[1], pack_meta(m))
  return {OK, now}
end

redis.register_function{function_name = 'open' .. VERSION, callback = open, flags = {'allow-oom'}}
