-- The account value: unpacked once per call, changed in memory, packed once at the end. Layout: meter/codec.go.

local function unpack_account(packed)
  local format, seq, flags, version, holds, pruned, n_applied, n_grants, at =
    struct.unpack('<Bi8BI4I4i8BB', packed)
  if format ~= 1 then error('account has format ' .. format .. ', this script knows 1') end
  local applied, grants = {}, {}
  for i = 1, n_applied do
    local id, pseq
    id, pseq, at = struct.unpack('<c16i8', packed, at)
    applied[i] = {id = id, pseq = pseq}
  end
  for i = 1, n_grants do
    local id, rank, gflags, bucket, available, held, debt, effective, expires, created
    id, rank, gflags, bucket, available, held, debt, effective, expires, created, at =
      struct.unpack('<c16BBBc0i8i8i8i6i6i6', packed, at)
    grants[i] = {
      id = id, rank = rank, flags = gflags, bucket = bucket, available = available, held = held, debt = debt,
      effective = effective, expires = expires, created = created,
    }
  end
  return {
    seq = seq, suspended = flags % 2 == 1, version = version, holds = holds, pruned = pruned,
    applied = applied, grants = grants,
  }
end

local function pack_account(a)
  local parts = {struct.pack('<Bi8BI4I4i8BB', 1, a.seq, a.suspended and 1 or 0, a.version, a.holds, a.pruned,
    #a.applied, #a.grants)}
  for _, c in ipairs(a.applied) do
    parts[#parts + 1] = struct.pack('<c16i8', c.id, c.pseq)
  end
  for _, g in ipairs(a.grants) do
    parts[#parts + 1] = struct.pack('<c16BBBc0i8i8i8i6i6i6', g.id, g.rank, g.flags, #g.bucket, g.bucket,
      g.available, g.held, g.debt, g.effective, g.expires, g.created)
  end
  return table.concat(parts)
end

-- Drain order, total: bucket rank, earliest expiry, oldest, id. meter.CompareGrants is the same rule.
local function drains_before(a, b)
  if a.rank ~= b.rank then return a.rank < b.rank end
  if a.expires ~= b.expires then return a.expires < b.expires end
  if a.created ~= b.created then return a.created < b.created end
  return a.id < b.id
end

local function insert_grant(a, g)
  local i = #a.grants
  while i > 0 and drains_before(g, a.grants[i]) do i = i - 1 end
  table.insert(a.grants, i + 1, g)
end

local function find_grant(a, id)
  for i, g in ipairs(a.grants) do
    if g.id == id then return g, i end
  end
end

local function available(a, now)
  local sum = 0
  for _, g in ipairs(a.grants) do
    if g.effective <= now and now < g.expires then sum = sum + g.available end
  end
  return sum
end

-- Takes amount in drain order. The caller has checked that it is there.
local function take(a, amount, now)
  local taken = {}
  for _, g in ipairs(a.grants) do
    if amount == 0 then break end
    if g.available > 0 and g.effective <= now and now < g.expires then
      local part = math.min(amount, g.available)
      g.available = g.available - part
      amount = amount - part
      taken[#taken + 1] = {grant = g, id = g.id, amount = part, charged = 0}
    end
  end
  if amount ~= 0 then error('take: more than available') end
  return taken
end

-- Forgets what can never move again: grants that hold nothing, and admin changes whose entry is flushed. pruned
-- keeps the newest forgotten pseq, so that a delayed repeat of a forgotten change is refused (RECHECK).
local function tidy(a, flushed)
  for i = #a.grants, 1, -1 do
    local g = a.grants[i]
    if g.available == 0 and g.held == 0 then table.remove(a.grants, i) end
  end
  for i = #a.applied, 1, -1 do
    local c = a.applied[i]
    if c.pseq <= flushed then
      a.pruned = math.max(a.pruned, c.pseq)
      table.remove(a.applied, i)
    end
  end
end

-- Whether an admin change may be applied: nil for yes, else the code that answers it. Changes that are flushed do
-- not keep an account busy, although they are forgotten only when it is written.
local function refuse_change(a, id, checked, flushed)
  local unflushed = 0
  for _, c in ipairs(a.applied) do
    if c.id == id then return OK end
    if c.pseq > flushed then unflushed = unflushed + 1 end
  end
  if checked < a.pruned then return RECHECK end
  if unflushed >= APPLIED_MAX then return BUSY end
end
