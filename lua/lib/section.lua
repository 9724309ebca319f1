-- One call serves several partitions: a section is one of them, with its fence, its clock and what will be written.
-- Everything is computed before anything is written, so an operation that raises can be left out and the rest
-- computed again.

local function number(v) return tonumber(v or 0) end
local function text(n) return string.format('%.0f', n) end

-- Reads a partition's meta and decides whether it may be used: sec.code is nil if so, else the answer to all its
-- operations.
local function open_section(base, epoch, min_pseq, wall, caller, incarnation)
  local m = redis.call('HMGET', KEYS[base], 'epoch', 'pseq', 'flushed', 'flushed_epoch', 'last_ms', 'inc', 'down_ms',
    'state', 'torn', 'outcomes_from')
  local sec = {
    meta_key = KEYS[base], ledger_key = KEYS[base + 1], open_key = KEYS[base + 2], lapses_key = KEYS[base + 3],
    slots_key = KEYS[base + 4],
    epoch = number(m[1]), stored = m, open_raw = {}, done_raw = {},
  }
  sec.now = math.max(wall, number(m[5]))
  sec.up = sec.now - number(m[7])
  sec.loading = m[8] == 'loading'
  if not m[1] then sec.code = CLOSED
  elseif m[9] then sec.code = TORN
  elseif m[6] ~= incarnation then sec.code = FENCED
  elseif sec.epoch ~= epoch then sec.code = EPOCH
  elseif number(m[2]) < min_pseq then sec.code = REGRESSED
  -- The clock that decides, not only the wall's: a clock that was ahead once stays in last_ms.
  elseif math.abs(sec.now - caller) > CLOCK_SKEW_MAX_MS then sec.code = CLOCK
  end
  return sec
end

-- Forgets everything computed, as before the first operation.
local function reset_section(sec)
  sec.pseq, sec.flushed, sec.flushed_epoch = number(sec.stored[2]), number(sec.stored[3]), number(sec.stored[4])
  sec.outcomes_from, sec.mark, sec.trim = number(sec.stored[10]), false, nil
  sec.accounts, sec.dirty, sec.reservations, sec.touched = {}, {}, {}, {}
  sec.entries, sec.lapses, sec.key_raw, sec.key_writes, sec.drops = {}, {}, {}, {}, {}
  sec.record, sec.packed = nil, {}
end

-- Whether an operation of this call, before the one that asks, writes to an outcome slot or a key day.
local function writes_to(sec, slot)
  for _, done_key in pairs(sec.touched) do
    if done_key == slot then return true end
  end
  for _, k in ipairs(sec.key_writes) do
    if k.day == slot then return true end
  end
  return false
end

local function find_account(sec, op)
  local key = op.account_key
  local a = sec.accounts[key]
  if a == nil then
    local packed = account_raw[key]
    a = packed and unpack_account(packed) or false
    sec.accounts[key] = a
  end
  return a
end

local function keep_account(sec, op, a)
  tidy(a, sec.flushed)
  sec.accounts[op.account_key] = a
  sec.dirty[op.account_key] = a
end

-- Calls a command with at most 1,000 arguments at a time: Lua's unpack has a limit, and a bound is a bound.
local function call_many(command, key, args)
  for i = 1, #args, 1000 do
    redis.call(command, key, unpack(args, i, math.min(i + 999, #args)))
  end
end

local function write_reservations(sec)
  local opened, closed, done = {}, {}, {}
  for id, done_key in pairs(sec.touched) do
    local r = sec.reservations[id]
    if r.state == HELD then
      opened[#opened + 1], opened[#opened + 2] = id, r.packed
    else
      if sec.open_raw[id] then closed[#closed + 1] = id end
      local slot = done[done_key] or {}
      slot[#slot + 1], slot[#slot + 2] = id, r.packed
      done[done_key] = slot
    end
  end
  call_many('HSET', sec.open_key, opened)
  call_many('HDEL', sec.open_key, closed)
  for done_key, slot in pairs(done) do
    call_many('HSET', done_key, slot)
    sec.slots[#sec.slots + 1], sec.slots[#sec.slots + 2] = done_key, text(sec.now)
  end
end

local function write_keys(sec)
  for _, k in ipairs(sec.key_writes) do
    redis.call('HSET', k.day, k.hash, k.raw)
    sec.slots[#sec.slots + 1], sec.slots[#sec.slots + 2] = k.day, text(sec.now)
  end
end

local function write_accounts(sec)
  for key, packed in pairs(sec.packed) do redis.call('SET', key, packed) end
  for member, expires in pairs(sec.lapses) do
    if expires then redis.call('ZADD', sec.lapses_key, text(expires), member)
    else redis.call('ZREM', sec.lapses_key, member) end
  end
end

-- Packs everything that is to be written; reservations and key records were packed when they were kept. What raises
-- here leaves nothing behind.
local function pack_section(sec)
  if #sec.entries > 0 then sec.record = pack_record(sec) end
  for key, a in pairs(sec.dirty) do sec.packed[key] = pack_account(a) end
end

-- The write phase. The ledger record goes first: an explicit id that is not above the last one is the only
-- failure that depends on state, and it leaves nothing behind.
local function write_section(sec)
  if sec.record then
    redis.call('XADD', sec.ledger_key, text(sec.epoch) .. '-' .. text(sec.pseq + 1), 'e', sec.record)
    sec.pseq, sec.mark = sec.pseq + 1, true
  end
  sec.wrote, sec.slots = true, {}
  write_reservations(sec)
  write_keys(sec)
  write_accounts(sec)
  call_many('HSET', sec.slots_key, sec.slots)
  for _, key in ipairs(sec.drops) do
    if not writes_to(sec, key) then -- an operation after the drop may write there too
      redis.call('UNLINK', key)
      redis.call('HDEL', sec.slots_key, key)
    end
  end
  if sec.mark or next(sec.touched) or next(sec.dirty) or #sec.drops > 0 then
    redis.call('HSET', sec.meta_key, 'pseq', text(sec.pseq), 'flushed', text(sec.flushed), 'flushed_epoch',
      text(sec.flushed_epoch), 'last_ms', text(sec.now), 'outcomes_from', text(sec.outcomes_from))
  end
  if sec.trim then redis.call('XTRIM', sec.ledger_key, 'MINID', sec.trim) end
end
