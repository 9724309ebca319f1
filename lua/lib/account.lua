-- The account value: its head is read once per call, its grants one by one as they are needed, since an account may
-- have 64 and a request draws from one or two. What changed is patched in, or all is packed anew when grants came,
-- went or moved. Layout: meter/codec.go.

local NONE = {} -- stands for an empty list where nothing is ever put into it

local function unpack_account(packed)
  local layout, seq, flags, version, holds, pruned, sum, as_of, till, n_applied, n_grants, at =
    read('<Bi8BI4I4i8i8i6i6BB', packed)
  if layout ~= 2 then error('account has format ' .. layout .. ', this library knows 2') end
  local applied = n_applied == 0 and NONE or {}
  for i = 1, n_applied do
    local id, pseq
    id, pseq, at = read('<c16i8', packed, at)
    applied[i] = {id = id, pseq = pseq}
  end
  return {
    packed = packed, seq = seq, flags = flags, version = version, holds = holds, pruned = pruned,
    sum = sum, as_of = as_of, till = till, applied = applied, n = n_grants, first = at, loaded = {}, reshaped = false, key = false,
  }
end

-- The grant at a place in the packed value. a.loaded has those that were asked for, in their order there.
local function grant_at(a, at)
  local loaded = a.loaded
  local i = #loaded
  while i > 0 and loaded[i].at > at do i = i - 1 end
  if i > 0 and loaded[i].at == at then return loaded[i] end
  local id, available, held, debt, effective, expires, created, rank, flags, bucket, after =
    read('<c16i8i8i8i6i6i6BBBc0', a.packed, at)
  local g = {
    id = id, available = available, held = held, debt = debt, effective = effective, expires = expires,
    created = created, rank = rank, flags = flags, bucket = bucket, at = at, after = after, touched = false,
  }
  if i == #loaded then loaded[i + 1] = g else table.insert(loaded, i + 1, g) end
  return g
end

-- All grants in drain order.
local function all_grants(a)
  if a.reshaped then return a.loaded end
  local at = a.first
  for _ = 1, a.n do at = grant_at(a, at).after end
  return a.loaded
end

-- The grant that is drained i-th, or nil; before is the one before it.
local function grant_number(a, i, before)
  if i > a.n then return nil end
  if a.reshaped then return a.loaded[i] end
  return grant_at(a, before and before.after or a.first)
end

-- Whether a grant begins at this place: 60 bytes and the bucket's length come before its name.
local function begins_grant(a, at)
  local from = a.first
  while from < at do from = from + 61 + byte(a.packed, from + 60) end
  return from == at
end

-- An id is searched for, which costs less than unpacking the grants before it; the same bytes may stand elsewhere too.
local function find_grant(a, id)
  if a.reshaped then
    for _, g in ipairs(a.loaded) do
      if g.id == id then return g end
    end
    return nil
  end
  local at = find(a.packed, id, a.first, true)
  while at and not begins_grant(a, at) do at = find(a.packed, id, at + 1, true) end
  return at and grant_at(a, at)
end

local function pack_grant(g)
  return pack('<c16i8i8i8i6i6i6BBBc0', g.id, g.available, g.held, g.debt, g.effective, g.expires, g.created,
    g.rank, g.flags, #g.bucket, g.bucket)
end

-- The one grant that was touched, or nil if there are more or none.
local function only_touched(a)
  local only
  local loaded = a.loaded
  for i = 1, #loaded do
    local g = loaded[i]
    if g.touched then
      if only then return nil end
      only = g
    end
  end
  return only
end

local function pack_account(a)
  local g = not a.reshaped and #a.applied == 0 and only_touched(a)
  if g then -- nearly always, and at one go: Lua keeps every string it makes in a table of all strings
    return pack('<Bi8BI4I4i8i8i6i6BBc0i8i8i8c0', 2, a.seq, a.flags, a.version, a.holds, a.pruned,
      a.sum, a.as_of, a.till, 0, a.n, sub(a.packed, a.first, g.at + 15), g.available, g.held, g.debt, sub(a.packed, g.at + 40))
  end
  local head = pack('<Bi8BI4I4i8i8i6i6BB', 2, a.seq, a.flags, a.version, a.holds, a.pruned,
    a.sum, a.as_of, a.till, #a.applied, a.n)
  local parts = {head}
  for _, c in ipairs(a.applied) do
    parts[#parts + 1] = pack('<c16i8', c.id, c.pseq)
  end
  if a.reshaped then
    for _, g in ipairs(a.loaded) do parts[#parts + 1] = pack_grant(g) end
  else
    local from = a.first
    for _, g in ipairs(a.loaded) do
      if g.touched then
        parts[#parts + 1] = sub(a.packed, from, g.at + 15)
        parts[#parts + 1] = pack('<i8i8i8', g.available, g.held, g.debt)
        from = g.at + 40
      end
    end
    parts[#parts + 1] = sub(a.packed, from)
  end
  return concat(parts)
end

-- Drain order, total: bucket rank, earliest expiry, oldest, id. meter.CompareGrants is the same rule.
local function drains_before(a, b)
  if a.rank ~= b.rank then return a.rank < b.rank end
  if a.expires ~= b.expires then return a.expires < b.expires end
  if a.created ~= b.created then return a.created < b.created end
  return a.id < b.id
end

-- Grants came, went or moved: from here on a.loaded is what counts, with all of them in drain order, and the sum is
-- computed anew when it is asked for.
local function reshape(a)
  local order = all_grants(a)
  a.reshaped, a.till = true, 0
  return order
end

local function insert_grant(a, g)
  local order = reshape(a)
  local i = #order
  while i > 0 and drains_before(g, order[i]) do i = i - 1 end
  table.insert(order, i + 1, g)
  a.n = #order
  if g.flags >= UNLIMITED and a.flags < FAIR then a.flags = a.flags + FAIR end
end

local function remove_grant(a, g)
  local order = reshape(a)
  for i, other in ipairs(order) do
    if other == g then
      table.remove(order, i)
      break
    end
  end
  a.n = #order
  if g.flags < UNLIMITED then return end
  for _, other in ipairs(order) do
    if other.flags >= UNLIMITED then return end
  end
  a.flags = a.flags - FAIR
end

local function is_live(g, now) return g.effective <= now and now < g.expires end

-- What can be drawn now: of the live grants up to the bucket of the first that stops. The sum is kept with the span of
-- time in which no grant begins or ends, so that it need not be added up at every call.
local function available(a, now)
  if now < a.as_of or now >= a.till then
    local sum, till, last = 0, NEVER, RANK_MAX -- the last rank that counts
    for _, g in ipairs(all_grants(a)) do
      if g.rank <= last and is_live(g, now) then
        sum = sum + g.available
        if g.flags >= STOPS then last = g.rank end
      end
      if now < g.effective then till = min(till, g.effective) end
      if now < g.expires then till = min(till, g.expires) end
    end
    a.sum, a.as_of, a.till = sum, now, till
  end
  return a.sum
end

-- What an outcome says is available: below 0, as -1 - left, while a live grant that stays is shown as unlimited.
-- Asked of accounts with FAIR only.
local function shown(a, left, now)
  for _, g in ipairs(all_grants(a)) do
    local stays = g.available > 0 or g.held > 0 or g.flags >= STOPS
    if stays and g.flags % STOPS >= UNLIMITED and is_live(g, now) then return -1 - left end
  end
  return left
end

-- Changes what a grant has available, and the sum with it while the sum counts the grant. Where one may stop others it
-- is added up anew, since not every live grant counts.
local function add_available(a, g, n, now)
  g.available, g.touched = g.available + n, true
  if a.flags >= FAIR then a.till = 0
  elseif now >= a.as_of and now < a.till and is_live(g, now) then a.sum = a.sum + n end
end

-- Takes amount in drain order. The caller has checked that it is available, so nothing of a bucket behind one that
-- stops is reached.
local function take(a, amount, now)
  local taken, i = {}, 1
  local g = grant_number(a, 1, nil)
  while g and amount > 0 do
    if g.available > 0 and g.effective <= now and now < g.expires then
      local part = min(amount, g.available)
      add_available(a, g, -part, now)
      amount = amount - part
      taken[#taken + 1] = {grant = g, id = g.id, amount = part, charged = 0}
    end
    i = i + 1
    g = grant_number(a, i, g)
  end
  if amount ~= 0 then error('take: more than available') end
  return taken
end

-- Says that only Postgres has the debt of a grant from the record pseq on, or will once that is flushed: an admin change
-- that was checked before it is refused (RECHECK).
local function debt_left(a, pseq) a.pruned = max(a.pruned, pseq) end

-- Forgets what can never move again: grants that hold nothing, unless they still stop others, and admin changes whose
-- entry is flushed. pruned keeps the newest forgotten pseq, so that a delayed repeat of a forgotten change is refused
-- (RECHECK). Only a grant that was touched can have come to hold nothing; one that stopped others may also be over. pseq
-- is the record that this call writes.
local forget_grants
function forget_grants(a, now, pseq)
  local fair = a.flags >= FAIR
  if fair then all_grants(a) end
  local loaded = a.loaded
  for i = #loaded, 1, -1 do
    local g = loaded[i]
    if g.available == 0 and g.held == 0 and (fair or g.touched) and (g.flags < STOPS or now >= g.expires) then
      if g.debt > 0 then debt_left(a, pseq) end
      remove_grant(a, g) -- loads all: begin anew
      return forget_grants(a, now, pseq)
    end
  end
end

local function tidy(a, flushed, now, pseq)
  forget_grants(a, now, pseq)
  local applied = a.applied
  if applied == NONE then return end
  for i = #applied, 1, -1 do
    local c = applied[i]
    if c.pseq <= flushed then
      a.pruned = max(a.pruned, c.pseq)
      table.remove(applied, i)
    end
  end
end

-- Whether the account can take no grant more. A used-up grant that stopped others and is over takes no room, although it
-- is kept until the account is written: nothing is booked at its end.
local function is_full(a, sec)
  if a.n >= GRANTS_MAX then forget_grants(a, sec.now, sec.pseq + 1) end
  return a.n >= GRANTS_MAX
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

-- Remembers an admin change until its entry, which will be in the record pseq, is flushed.
local function remember(a, id, pseq)
  if a.applied == NONE then a.applied = {} end
  a.applied[#a.applied + 1] = {id = id, pseq = pseq}
end
