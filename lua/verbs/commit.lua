--[[ commit — charge `amount` of a reservation and give the rest back; book it late if its lease was over.
OP         2 '<i8I4i8BHc0' amount units reserved in_ledger note, then the key part. reserved > 0 says that the
           details are complete; in_ledger = 0 that the caller saw no outcome in the ledger
REPLY      OK reservation (committed, late or uncollected) | CONFLICT reservation | UNKNOWN | UNKNOWN reservation
           (made under another Idempotency-Key than the commit names: send again with its note) | ASK_LEDGER |
           NOT_LOADED
INVARIANT  charged ≤ reserved; charged + returned = reserved per grant; one entry; a repeat writes nothing
COST       O(draws · grants) ]]

-- Charges after the lease: all of the amount from what is available now, or nothing. A key that meanwhile has a
-- newer held or charged reservation must not be charged twice.
local function commit_late(sec, op, a, r, key, amount, units)
  local superseded = key and find_key(sec, key, op.id)
  if not superseded and available(a, sec.now) >= amount then
    r.draws = take(a, amount, sec.now)
    r.state, r.charged = LATE, amount
    add_entry(sec, a, r.account, KIND_LATE, amount, op.id, units, r.note, #r.draws)
    for _, d in ipairs(r.draws) do
      d.charged = d.amount
      add_line(sec, d.id, 0, d.amount, 0, 0, 0, 0)
    end
  else
    r.state, r.charged, r.draws = UNCOLLECTED, 0, {}
    add_entry(sec, a, r.account, KIND_UNCOLLECTED, amount, op.id, units, r.note, 0)
  end
  local left = available(a, sec.now)
  if a.flags >= FAIR then left = shown(a, left, sec.now) end
  r.settled, r.available = sec.now, left
  keep_account(sec, op, a)
  keep_reservation(sec, op, r)
  if key and r.state == LATE then keep_key(sec, key, op.id, r.packed) end
  return OK, r.packed
end

verbs[2] = function(sec, op)
  local amount, units, reserved, in_ledger, note, at = read('<i8I4i8BHc0', op.packed, op.at)
  local key = unpack_key(op.packed, at)
  local r = find_reservation(sec, op)
  if not r then
    if reserved == 0 then return UNKNOWN end
    -- outcomes_from is Redis' time and the id's a gateway's, so the ledger is asked a little beyond it
    if created_ms(op.id) < sec.outcomes_from + CLOCK_SKEW_MAX_MS and in_ledger ~= 0 then return ASK_LEDGER end
    r = {state = EXPIRED, amount = reserved, charged = 0, deadline = 0, account = op.account, note = note, draws = {}}
  end
  if r.state == COMMITTED or r.state == LATE then return r.charged == amount and OK or CONFLICT, r.packed end
  if r.state == UNCOLLECTED then return OK, r.packed end
  if r.state == RELEASED or amount > r.amount then return CONFLICT, r.packed end
  if r.note ~= note and key_of_note(r.note) ~= (key and key.hash) then return UNKNOWN, r.packed end
  local a = find_account(sec, op)
  if not a then return NOT_LOADED end
  if r.state == EXPIRED then
    return commit_late(sec, op, a, r, key, amount, units)
  end
  settle(sec, op, a, r, amount, COMMITTED, KIND_COMMIT, units)
  keep_account(sec, op, a)
  if key then keep_key(sec, key, op.id, r.packed) end
  return OK, r.packed
end
