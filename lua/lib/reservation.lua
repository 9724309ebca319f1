-- Reservations, open and settled, and the Idempotency-Key records that point at them. Layout: meter/codec.go.

local function unpack_reservation(packed)
  local layout, state, amount, charged, remaining, deadline, settled, account, note, n, at =
    read('<BBi8i8i8i6i6Bc0Hc0B', packed)
  if layout ~= 1 then error('reservation has format ' .. layout .. ', this library knows 1') end
  local draws = {}
  for i = 1, n do
    local id, drawn, kept
    id, drawn, kept, at = read('<c16i8i8', packed, at)
    draws[i] = {id = id, amount = drawn, charged = kept}
  end
  return {
    state = state, amount = amount, charged = charged, available = remaining, deadline = deadline,
    settled = settled, account = account, note = note, draws = draws, packed = packed, id = false, done_key = false,
  }
end

-- Most reservations draw from one grant, and are packed at one go: Lua keeps every string it makes in a table of all
-- strings, so that pieces cost more than their bytes.
local function pack_reservation(r)
  local draws = r.draws
  if #draws == 1 then
    local d = draws[1]
    return pack('<BBi8i8i8i6i6Bc0Hc0Bc16i8i8', 1, r.state, r.amount, r.charged, r.available, r.deadline, r.settled,
      #r.account, r.account, #r.note, r.note, 1, d.id, d.amount, d.charged)
  end
  local parts = {pack('<BBi8i8i8i6i6Bc0Hc0B', 1, r.state, r.amount, r.charged, r.available, r.deadline, r.settled,
    #r.account, r.account, #r.note, r.note, #draws)}
  for i, d in ipairs(draws) do
    parts[i + 1] = pack('<c16i8i8', d.id, d.amount, d.charged)
  end
  return concat(parts)
end

-- An id is a UUIDv7: its first 48 bits are its creation time.
local function created_ms(id) return (read('>I6', id)) end

-- The reservation with this id as it stands now, or false. sec.open_raw and sec.done_raw were read before. An
-- operation that names another account than the reservation's would move credit between the two: it is refused.
local function find_reservation(sec, op)
  local r = sec.reservations[op.id]
  if r == nil then
    local packed = sec.open_raw[op.id] or sec.done_raw[op.id]
    r = packed and unpack_reservation(packed) or false
    sec.reservations[op.id] = r
  end
  if r and op.account ~= '' and op.account ~= r.account then error('the reservation is of another account') end
  return r
end

-- Stores r: in `open` while held, else in its outcome slot. The note goes when the ledger entry has it and nothing
-- can follow; a late commit of an expired reservation still needs it.
local function keep_reservation(sec, op, r)
  if r.state ~= HELD and r.state ~= EXPIRED then r.note = '' end
  r.packed = pack_reservation(r)
  if r.done_key then return end -- kept before, in this call
  r.id, r.done_key = op.id, op.done_key
  sec.reservations[op.id] = r
  local touched = sec.touched
  if touched then touched[#touched + 1] = r else sec.touched = {r} end
end

-- Whether a reservation is held now, by this call's view.
local function is_held(sec, id)
  local r = sec.reservations[id]
  if r == nil then
    local packed = call('HGET', KEYS[sec.base + OPEN_RESERVATIONS], id)
    r = packed and unpack_reservation(packed) or nil
    if r then sec.reservations[id] = r end -- a miss says nothing about `done`: not remembered
  end
  return r and r.state == HELD and r
end

-- The attempt that has an Idempotency-Key now: the one charged, or the one held; an attempt writes its record in the
-- day of its own id, so every day is asked before the key is free. `except` is left out, to ask for another attempt.
-- sec.key_raw remembers what was read and written in this call.
local function find_key(sec, key, except)
  for _, day in ipairs(key.days) do
    local field = day .. '\n' .. key.hash
    if not sec.key_raw then sec.key_raw = {} end
    local raw = sec.key_raw[field]
    if raw == nil then
      raw = call('HGET', day, key.hash)
      sec.key_raw[field] = raw
    end
    local id = raw and sub(raw, 17, 32)
    if raw and id ~= except then
      local held = #raw == 32 and is_held(sec, id)
      if held or #raw > 32 then
        return {fingerprint = sub(raw, 1, 16), id = id, held = held, outcome = sub(raw, 33)}
      end
    end
  end
end

local function keep_key(sec, key, id, outcome)
  local raw = key.fingerprint .. id .. outcome
  if not sec.key_raw then sec.key_raw = {} end
  if not sec.key_writes then sec.key_writes = {} end
  sec.key_raw[key.home .. '\n' .. key.hash] = raw
  sec.key_writes[#sec.key_writes + 1] = {day = key.home, hash = key.hash, raw = raw}
end

-- The hash of the Idempotency-Key in a note, or nil: after the format byte and five texts. Layout: meter/codec.go.
local function key_of_note(note)
  if note == '' then return nil end
  local at = 2
  for _ = 1, 5 do at = at + 1 + byte(note, at) end
  if at <= #note then return sub(note, at, at + 15) end
end

-- Reads the optional key part of an operation: hash, fingerprint, home day, then the days to look in.
local function unpack_key(packed, at)
  if byte(packed, at) == 0 then return nil end
  local hash, fingerprint, home, n
  hash, fingerprint, home, n, at = read('<c16c16HB', packed, at + 1)
  local days = {}
  for i = 1, n do
    local day
    day, at = read('<H', packed, at)
    days[i] = KEYS[day]
  end
  return {hash = hash, fingerprint = fingerprint, home = KEYS[home], days = days}
end
