--[[ expire — give a reservation back because its lease is over; the lease is checked again here.
OP         4 '' nothing more
REPLY      OK reservation (expired, or whatever outcome it already has) | NOT_DUE reservation | UNKNOWN | NOT_LOADED
INVARIANT  charged = 0; all draws return; one entry; a later commit is late, never lost
COST       O(draws · grants) ]]
verbs[4] = function(sec, op)
  local r = find_reservation(sec, op)
  if not r then return UNKNOWN end
  if r.state ~= HELD then return OK, r.packed end
  if sec.up < r.deadline then return NOT_DUE, r.packed end
  local a = find_account(sec, op)
  if not a then return NOT_LOADED end
  settle(sec, op, a, r, 0, EXPIRED, KIND_EXPIRE, 0)
  keep_account(sec, op, a)
  return OK, r.packed
end
