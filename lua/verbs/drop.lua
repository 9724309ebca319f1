--[[ drop — forget an outcome slot whose last write is old enough and whose entries are all flushed.
OP         15 '<HBi6' slot key, 1 done or 2 keys, end_ms of the slot's creation times
REPLY      OK | NOT_DUE (also when an operation of this call writes to the slot)
INVARIANT  no outcome is forgotten before it can be asked of Postgres; outcomes_from never goes back
COST       O(1); the slot is unlinked, freed in the background ]]
verbs[15] = function(sec, op)
  local slot, what, end_ms = read('<HBi6', op.packed, op.at)
  if writes_to(sec, KEYS[slot]) then return NOT_DUE end
  local noted = tonumber(call('HGET', KEYS[sec.base + SLOTS], KEYS[slot]) or nil)
  if not noted then return NOT_DUE end
  local last = noted + SLOT_NOTE_MS -- it may have been written so much later without a note
  local keep = what == 1 and DONE_KEEP_MS or KEY_KEEP_MS
  if last + keep > sec.now or end_ms > sec.now then return NOT_DUE end
  local first = call('XRANGE', KEYS[sec.base + LEDGER],
    format('(%.0f-%.0f', sec.flushed_epoch, sec.flushed), '+', 'COUNT', 1)[1]
  if first and (read('<i6', first[2][2], 2)) <= last then return NOT_DUE end
  if not sec.drops then sec.drops = {} end
  sec.drops[#sec.drops + 1] = KEYS[slot]
  if what == 1 then sec.outcomes_from = max(sec.outcomes_from, end_ms) end
  return OK
end
