-- Reservations, open and settled, and the Idempotency-Key records that point at them. Layout: meter/codec.go.

local function unpack_reservation(packed)
  local format, state, amount, charged, remaining, deadline, settled, account, note, n, at =
    struct.unpack('<BBi8i8i8i6i6Bc0Hc0B', packed)
  if format ~= 1 then error('reservation has format ' .. format .. ', this script knows 1') end
  local draws = {}
  for i = 1, n do
    local id, drawn, kept
    id, drawn, kept, at = struct.unpack('<c16i8i8', packed, at)
    draws[i] = {id = id, amount = drawn, charged = kept}
  end
  return {
    state = state, amount = amount, charged = charged, available = remaining, deadline = deadline,
    settled = settled, account = account, note = note, draws = draws, packed = packed,
  }
end

local function pack_reservation(r)
  local parts = {struct.pack('<BBi8i8i8i6i6Bc0Hc0B', 1, r.state, r.amount, r.charged, r.available, r.deadline,
    r.settled, #r.account, r.account, #r.note, r.note, #r.draws)}
  for _, d in ipairs(r.draws) do
    parts[#parts + 1] = struct.pack('<c16i8i8', d.id, d.amount, d.charged)
  end
  return table.concat(parts)
end

-- An id is a UUIDv7: its first 48 bits are its creation time.
local function created_ms(id) return (struct.unpack('>I6', id)) end

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
  sec.reservations[op.id] = r
  sec.touched[op.id] = op.done_key
end

-- Whether a reservation is held now, by this call's view.
local function is_held(sec, id)
  local r = sec.reservations[id]
  if r == nil then
    local packed = redis.call('HGET', sec.open_key, id)
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
    local raw = sec.key_raw[field]
    if raw == nil then
      raw = redis.call('HGET', day, key.hash)
      sec.key_raw[field] = raw
    end
    local id = raw and string.sub(raw, 17, 32)
    if raw and id ~= except then
      local held = #raw == 32 and is_held(sec, id)
      if held or #raw > 32 then
        return {fingerprint = string.sub(raw, 1, 16), id = id, held = held, outcome = string.sub(raw, 33)}
      end
    end
  end
end

local function keep_key(sec, key, id, outcome)
  local raw = key.fingerprint .. id .. outcome
  sec.key_raw[key.home .. '\n' .. key.hash] = raw
  sec.key_writes[#sec.key_writes + 1] = {day = key.home, hash = key.hash, raw = raw}
end

-- The hash of the Idempotency-Key in a note, or nil: after the format byte and five texts. Layout: meter/codec.go.
local function key_of_note(note)
  if note == '' then return nil end
  local at = 2
  for _ = 1, 5 do at = at + 1 + string.byte(note, at) end
  if at <= #note then return string.sub(note, at, at + 15) end
end

-- Reads the optional key part of an operation: hash, fingerprint, home day, then the days to look in.
local function unpack_key(packed, at)
  local keyed
  keyed, at = struct.unpack('<B', packed, at)
  if keyed == 0 then return nil end
  local hash, fingerprint, home, n
  hash, fingerprint, home, n, at = struct.unpack('<c16c16HB', packed, at)
  local days = {}
  for i = 1, n do
    local day
    day, at = struct.unpack('<H', packed, at)
    days[i] = KEYS[day]
  end
  return {hash = hash, fingerprint = fingerprint, home = KEYS[home], days = days}
end
