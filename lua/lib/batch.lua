-- The body of both entry scripts: read, compute, write, answer.

local sections, ops, replies, account_raw_keys = {}, {}, {}, {}

local function read_sections()
  local clock = redis.call('TIME')
  local wall = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local incarnation = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  local caller, n, at = struct.unpack('<i6H', ARGV[1])
  for i = 1, n do
    local base, epoch, min_pseq
    base, epoch, min_pseq, at = struct.unpack('<Hi8i8', ARGV[1], at)
    sections[i] = open_section(base, epoch, min_pseq, wall, caller, incarnation)
  end
end

local function read_ops()
  for i = 2, #ARGV do
    local verb, section, id, account, done, at = struct.unpack('<BHc16HH', ARGV[i])
    local op = {
      verb = verb, sec = sections[section], id = id, packed = ARGV[i], at = at,
      account_key = KEYS[account], done_key = KEYS[done],
    }
    if op.account_key then
      op.account = string.sub(op.account_key, string.find(op.account_key, ':a:', 1, true) + 3)
    else
      op.account = ''
    end
    ops[i - 1] = op
  end
end

-- Adds a field to the list of those to read from a key.
local function want(wanted, key, field)
  local list = wanted[key]
  if not list then
    list = {}
    wanted[key] = list
  end
  list[#list + 1] = field
end

local function read_fields(wanted, into)
  for key, fields in pairs(wanted) do
    for i = 1, #fields, 1000 do
      local last = math.min(i + 999, #fields)
      local values = redis.call('HMGET', key, unpack(fields, i, last))
      for j = i, last do into(fields[j], values[j - i + 1]) end
    end
  end
end

-- Reads all that the operations name, a command for each key instead of one for each operation.
local function read_values()
  local seen = {}
  for s, sec in ipairs(sections) do
    local open, done = {}, {}
    for _, op in ipairs(ops) do
      if op.sec == sec and not sec.code then
        if op.account_key and not seen[op.account_key] then
          seen[op.account_key] = true
          account_raw_keys[#account_raw_keys + 1] = op.account_key
        end
        if op.done_key then
          want(open, sec.open_key, op.id)
          want(done, op.done_key, op.id)
        end
      end
    end
    read_fields(open, function(id, v) sec.open_raw[id] = v end)
    read_fields(done, function(id, v) sec.done_raw[id] = v end)
  end
  for i = 1, #account_raw_keys, 1000 do
    local last = math.min(i + 999, #account_raw_keys)
    local values = redis.call('MGET', unpack(account_raw_keys, i, last))
    for j = i, last do account_raw[account_raw_keys[j]] = values[j - i + 1] end
  end
end

local running -- the operation being computed, for the one that raises

local function compute(failed)
  for i, op in ipairs(ops) do
    running = i
    local code, body
    if failed[i] then
      code, body = 0, failed[i]
    elseif op.sec.code then
      code = op.sec.code
    elseif op.sec.loading and op.verb ~= 12 and op.verb ~= 13 then
      code = CLOSED -- only load and load key may run before the partition is open
    else
      code, body = verbs[op.verb](op.sec, op)
    end
    replies[i] = struct.pack('<Bc16', code, op.id) .. (body or '')
  end
end

-- One bad operation harms nobody: it is left out and the others are computed again from what was read. More than
-- a handful is a bug in the call, which is raised; the caller then sends halves.
local function compute_all()
  local failed, ok, err = {}, false, nil
  for _ = 1, 8 do
    for _, sec in ipairs(sections) do reset_section(sec) end
    ok, err = pcall(compute, failed)
    if ok then return end
    failed[running] = type(err) == 'table' and err.err or tostring(err)
  end
  error(failed[running])
end

-- Answers all operations of a section with a code and what Redis said.
local function refuse(sec, code, err)
  local why = type(err) == 'table' and err.err or tostring(err)
  for i, op in ipairs(ops) do
    if op.sec == sec then replies[i] = struct.pack('<Bc16', code, op.id) .. why end
  end
end

local function write_all()
  for _, sec in ipairs(sections) do
    if not sec.code then
      local ok, err = pcall(pack_section, sec)
      if not ok then
        reset_section(sec) -- the reply's head tells what is stored
        refuse(sec, 0, err)
      else
        ok, err = pcall(write_section, sec)
        if not ok and sec.wrote then
          pcall(redis.call, 'HSET', sec.meta_key, 'torn', '1')
          sec.code = TORN
        elseif not ok then
          sec.code = REGRESSED -- the record's id is taken: Redis is not where this epoch left it
        end
        if not ok then refuse(sec, sec.code, err) end
      end
    end
  end
end

local function answer()
  local out = {}
  for i, sec in ipairs(sections) do
    out[i] = struct.pack('<Bi8i8i6i8i8', sec.code or OK, sec.epoch, sec.pseq, sec.now, sec.flushed,
      number(sec.stored[7]))
  end
  for _, reply in ipairs(replies) do out[#out + 1] = reply end
  return out
end

read_sections()
read_ops()
read_values()
compute_all()
write_all()
return answer()
