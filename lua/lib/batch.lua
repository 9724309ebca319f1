-- The body of apply: read, compute, write, answer. What one call works on stands in these; each call begins anew.

local sections, ops, codes, bodies, order -- codes and bodies: the replies; order: of the keys that one MGET reads

-- The section's head in ARGV. Its keys are read where they are needed: the last ones are passed only to calls that may
-- write them.
local function read_section(packed, at, i)
  local sec = { -- with room for most of what it will have: a table that grows is laid out anew
    ops = {}, open_raw = {}, done_raw = {}, accounts = {}, reservations = {}, base = 0, prefix = 0, called_epoch = 0,
    min_pseq = 0, packed = '', now = 0, up = 0, state = 0, torn = 0, epoch = 0, pseq = 0, flushed = 0, flushed_epoch = 0,
    last_ms = 0, down_ms = 0, outcomes_from = 0, base_pseq = 0, noted = 0, noted_ms = 0, inc = '',
  }
  local _
  sec.base, _, sec.prefix, sec.called_epoch, sec.min_pseq, at = read('<HBBi8i8', packed, at)
  order[i] = KEYS[sec.base]
  return sec, at
end

local function read_op(packed, at)
  local size, verb, section, id, account, done, body = read('<HBHc16HH', packed, at)
  local sec = sections[section]
  local key, name = KEYS[account], ''
  if key then
    name = sub(key, sec.prefix + 1)
    if account_raw[key] == nil then
      account_raw[key] = false
      order[#order + 1] = key
    end
  end
  local brief = verb >= BRIEF
  if brief then verb = verb - BRIEF end
  local op = {
    verb = verb, brief = brief, sec = sec, id = id, packed = packed, at = body, account_key = key, account = name, done_key = KEYS[done],
  }
  local of = sec.ops
  of[#of + 1] = op
  return op, at + size
end

-- Reads the calls' one argument. Returns the caller's time, and how far a test clock is ahead.
local function read_call(packed)
  local caller, n_sections, n_ops, at = read('<i6HH', packed)
  local offset = 0
  if n_sections >= MOVED then
    n_sections = n_sections - MOVED
    offset, at = read('<i6', packed, at)
  end
  for i = 1, n_sections do sections[i], at = read_section(packed, at, i) end
  for i = 1, n_ops do ops[i], at = read_op(packed, at) end
  return caller, offset
end

-- Reads every meta and every account that is named, with one command.
local function read_values(caller, offset)
  local clock = call('TIME')
  local wall = clock[1] * 1000 + floor(clock[2] / 1000) + offset
  local incarnation = replication_id()
  for i = 1, #order, 1000 do
    local last = min(i + 999, #order)
    local values = call('MGET', unpack(order, i, last))
    for j = i, last do
      local value = values[j - i + 1]
      if j <= #sections then open_section(sections[j], value, wall, caller, incarnation)
      else account_raw[order[j]] = value end
    end
  end
end

local function read_fields(key, ids, into)
  local n = #ids
  for i = 1, n, 1000 do
    local last = min(i + 999, n)
    local values = call('HMGET', key, unpack(ids, i, last))
    for j = i, last do
      local value = values[j - i + 1]
      if value then into[ids[j]] = value end
    end
  end
end

-- Reads the reservations that a section's operations name: the open ones, then the outcomes of the others.
local function read_reservations(sec)
  local of, ids, n = sec.ops, {}, 0
  for i = 1, #of do
    if of[i].done_key then
      n = n + 1
      ids[n] = of[i].id
    end
  end
  if n == 0 then return end
  read_fields(KEYS[sec.base + OPEN_RESERVATIONS], ids, sec.open_raw)
  local wanted
  for i = 1, #of do
    local op = of[i]
    local key = op.done_key
    if key and not sec.open_raw[op.id] then
      if not wanted then wanted = {} end
      local list = wanted[key]
      if list then list[#list + 1] = op.id else wanted[key] = {op.id} end
    end
  end
  for key, list in pairs(wanted or NONE) do read_fields(key, list, sec.done_raw) end
end

local running -- the operation being computed, for the one that raises

local function compute(failed)
  for i = 1, #ops do
    running = i
    local op, code, body = ops[i], nil, nil
    if failed[i] then
      code, body = 0, failed[i]
    elseif op.sec.code then
      code = op.sec.code
    elseif op.sec.state == LOADING and op.verb ~= 12 and op.verb ~= 13 then
      code = CLOSED -- only load and load key may run before the partition is open
    else
      code, body = verbs[op.verb](op.sec, op)
    end
    codes[i], bodies[i] = code, body or ''
  end
end

local function said(err) return type(err) == 'table' and err.err or tostring(err) end

-- One bad operation harms nobody: it is left out and the others are computed again from what was read. More than
-- a handful is a bug in the call, which is raised; the caller then sends halves.
local function compute_all()
  local failed, ok, err = {}, false, nil
  for _ = 1, 8 do
    ok, err = pcall(compute, failed)
    if ok then return end
    failed[running] = said(err)
    for _, sec in ipairs(sections) do
      if not sec.code then reset_section(sec) end
    end
  end
  error(failed[running])
end

-- Answers all operations of a section with a code and what Redis said.
local function refuse(sec, code, err)
  for i, op in ipairs(ops) do
    if op.sec == sec then codes[i], bodies[i] = code, said(err) end
  end
end

-- Nothing tells any more what a partition has: it is marked, and a person must look.
local function tear(sec, err)
  unpack_meta(sec, sec.packed)
  sec.torn = 1
  pcall(call, 'SET', KEYS[sec.base], pack_meta(sec))
  sec.code = TORN
  refuse(sec, TORN, err)
end

local function write_one(sec)
  local ok, err = pcall(pack_section, sec)
  if not ok then
    reset_section(sec) -- the reply's head tells what is stored
    refuse(sec, 0, err)
    return
  end
  ok, err = pcall(write_section, sec)
  if ok then return end
  sec.sets = nil
  if sec.wrote then
    tear(sec, err)
  else
    sec.code = REGRESSED -- the record's id is taken: Redis is not where this epoch left it
    refuse(sec, REGRESSED, err)
  end
end

-- Writes section by section, then every meta and account with one command.
local function write_all()
  local sets = {}
  for _, sec in ipairs(sections) do
    if not sec.code then
      write_one(sec)
      for _, v in ipairs(sec.sets or NONE) do sets[#sets + 1] = v end
    end
  end
  for i = 1, #sets, 1000 do
    local ok, err = pcall(call, 'MSET', unpack(sets, i, min(i + 999, #sets)))
    if not ok then
      for _, sec in ipairs(sections) do
        if sec.sets then tear(sec, err) end
      end
      return
    end
  end
end

local function answer()
  local out = {}
  for i, sec in ipairs(sections) do
    out[i] = pack('<Bi8i8i6i8i8', sec.code or OK, sec.epoch, sec.pseq, sec.now, sec.flushed, sec.down_ms)
  end
  local n = #out
  for i = 1, #ops do
    local op, code, body = ops[i], codes[i], bodies[i]
    if op.brief and code == OK then out[n + i] = pack(BRIEF_REPLY, OK, op.id, BRIEF_SIZE, body)
    else out[n + i] = pack('<Bc16Hc0', code, op.id, #body, body) end
  end
  return concat(out)
end

local function apply(keys, args)
  begin()
  KEYS, account_raw = keys, {}
  sections, ops, codes, bodies, order = {}, {}, {}, {}, {}
  read_values(read_call(args[1]))
  for _, sec in ipairs(sections) do
    if not sec.code then read_reservations(sec) end
  end
  compute_all()
  write_all()
  return answer()
end
