-- One call serves several partitions: a section is one of them, with its fence, its clock and what will be written.
-- Everything is computed before anything is written, so an operation that raises can be left out and the rest
-- computed again. Tables are made when something is put into them: with many partitions most stay empty.

local LOADING, OPEN = 1, 2 -- states of a partition

local function text(n) return format('%.0f', n) end

-- meta: the partition's head, its fence and its clock. Layout: meter/meta.go.
local function unpack_meta(m, packed)
  local layout
  layout, m.state, m.torn, m.epoch, m.pseq, m.flushed, m.flushed_epoch, m.last_ms, m.down_ms, m.outcomes_from, m.base_pseq,
    m.noted, m.noted_ms, m.inc = read('<BBBi8i8i8i8i6i6i6i8i6i6Bc0', packed)
  if layout ~= 2 then error('meta has format ' .. layout .. ', this library knows 2') end
end

local function pack_meta(m)
  return pack('<BBBi8i8i8i8i6i6i6i8i6i6Bc0', 2, m.state, m.torn, m.epoch, m.pseq, m.flushed, m.flushed_epoch,
    m.last_ms, m.down_ms, m.outcomes_from, m.base_pseq, m.noted, m.noted_ms, #m.inc, m.inc)
end

-- What tells this Redis' history from another's. It is asked for at every call, and a search for plain text costs less
-- than a pattern.
local function replication_id()
  local info = call('INFO', 'replication')
  local _, at = find(info, 'master_replid:', 1, true)
  return at and sub(info, at + 1, at + REPLID_SIZE)
end

-- Decides whether a partition may be used: sec.code is nil if so, else the answer to all its operations.
local function open_section(sec, packed, wall, caller, incarnation)
  if not packed then
    sec.code, sec.now, sec.epoch, sec.flushed, sec.pseq, sec.down_ms = CLOSED, wall, 0, 0, 0, 0
    return
  end
  unpack_meta(sec, packed)
  sec.packed = packed
  sec.now = max(wall, sec.last_ms)
  sec.up = sec.now - sec.down_ms
  if sec.torn ~= 0 then sec.code = TORN
  elseif sec.inc ~= incarnation then sec.code = FENCED
  elseif sec.epoch ~= sec.called_epoch then sec.code = EPOCH
  elseif sec.pseq < sec.min_pseq then sec.code = REGRESSED
  -- The clock that decides, not only the wall's: a clock that was ahead once stays in last_ms.
  elseif abs(sec.now - caller) > CLOCK_SKEW_MAX_MS then sec.code = CLOCK
  end
end

-- Forgets everything computed, as before the first operation.
local function reset_section(sec)
  unpack_meta(sec, sec.packed)
  sec.accounts, sec.reservations = {}, {}
  sec.mark, sec.trim, sec.dirty, sec.touched, sec.entries, sec.key_raw, sec.key_writes, sec.drops, sec.record, sec.sets =
    nil, nil, nil, nil, nil, nil, nil, nil, nil, nil
end

-- Whether an operation of this call, before the one that asks, writes to an outcome slot or a key day.
local function writes_to(sec, slot)
  for _, r in ipairs(sec.touched or NONE) do
    if r.done_key == slot then return true end
  end
  for _, k in ipairs(sec.key_writes or NONE) do
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
  tidy(a, sec.flushed, sec.now, sec.pseq + 1)
  sec.accounts[op.account_key] = a
  if a.key then return end -- kept before, in this call
  a.key = op.account_key
  local dirty = sec.dirty
  if dirty then dirty[#dirty + 1] = a else sec.dirty = {a} end
end

-- Calls a command with at most 1,000 arguments at a time: Lua's unpack has a limit, and a bound is a bound.
local function call_many(command, key, args)
  local n = #args
  for i = 1, n, 1000 do call(command, key, unpack(args, i, min(i + 999, n))) end
end

-- Writes down that an outcome slot or key day is in use, and since when it was not written any more. For outcome
-- slots that is known to SLOT_NOTE_MS only, which drop allows for, so that not every call has to write it: the newest
-- slot, which nearly every call writes to, is noted again after that time.
local function note_slot(sec, key, number)
  if number and number == sec.noted and sec.now - sec.noted_ms < SLOT_NOTE_MS then return end
  if number and number >= sec.noted then sec.newest_slot = max(number, sec.newest_slot or 0) end
  call('HSET', KEYS[sec.base + SLOTS], key, text(sec.now))
end

local function write_reservations(sec)
  local opened, closed, done
  local touched = sec.touched
  for i = 1, #touched do
    local r = touched[i]
    if r.state == HELD then
      if opened then
        local n = #opened
        opened[n + 1], opened[n + 2] = r.id, r.packed
      else opened = {r.id, r.packed} end
    else
      if sec.open_raw[r.id] then
        if closed then closed[#closed + 1] = r.id else closed = {r.id} end
      end
      if not done then done = {} end
      local slot = done[r.done_key]
      if slot then
        local n = #slot
        slot[n + 1], slot[n + 2] = r.id, r.packed
      else done[r.done_key] = {r.id, r.packed} end
    end
  end
  if opened then call_many('HSET', KEYS[sec.base + OPEN_RESERVATIONS], opened) end
  if closed then call_many('HDEL', KEYS[sec.base + OPEN_RESERVATIONS], closed) end
  for done_key, slot in pairs(done or NONE) do
    call_many('HSET', done_key, slot)
    note_slot(sec, done_key, floor(created_ms(slot[1]) / DONE_SLOT_MS))
  end
end

local function write_keys(sec)
  for _, k in ipairs(sec.key_writes) do
    call('HSET', k.day, k.hash, k.raw)
    note_slot(sec, k.day)
  end
end

local function drop_slots(sec)
  for _, key in ipairs(sec.drops) do
    if not writes_to(sec, key) then -- an operation after the drop may write there too
      call('UNLINK', key)
      call('HDEL', KEYS[sec.base + SLOTS], key)
    end
  end
end

-- Packs what is to be written; reservations and key records were packed when they were kept. What raises here leaves
-- nothing behind.
local function pack_section(sec)
  if sec.entries then sec.record = pack_record(sec) end
  if not (sec.mark or sec.record or sec.touched or sec.dirty or sec.drops) then return end
  local sets = {}
  local dirty = sec.dirty or NONE
  for i = 1, #dirty do
    local a = dirty[i]
    sets[2 * i - 1], sets[2 * i] = a.key, pack_account(a)
  end
  sec.sets = sets
end

-- The write phase of one partition, but for what batch.lua sets for all of them at once: the accounts and meta. The
-- ledger record goes first: an explicit id that is not above the last one is the only failure that depends on state,
-- and it leaves nothing behind.
local function write_section(sec)
  if sec.record then
    call('XADD', KEYS[sec.base + LEDGER], format('%.0f-%.0f', sec.epoch, sec.pseq + 1), 'e', sec.record)
    sec.pseq = sec.pseq + 1
  end
  sec.wrote = true
  if sec.touched then write_reservations(sec) end
  if sec.key_writes then write_keys(sec) end
  if sec.drops then drop_slots(sec) end
  if sec.trim then call('XTRIM', KEYS[sec.base + LEDGER], 'MINID', sec.trim) end
  local sets = sec.sets
  if sets then
    if sec.newest_slot then sec.noted, sec.noted_ms = sec.newest_slot, sec.now end
    sec.last_ms = sec.now
    sets[#sets + 1], sets[#sets + 2] = KEYS[sec.base], pack_meta(sec)
  end
end
