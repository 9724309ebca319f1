--[[ extend — let a reservation live for at least `lease_ms` from now.
OP         5 '<i6' lease_ms
REPLY      OK reservation | CONFLICT reservation (settled) | UNKNOWN
INVARIANT  a lease never gets shorter; no entry
COST       O(1) ]]
verbs[5] = function(sec, op)
  local lease = read('<i6', op.packed, op.at)
  local r = find_reservation(sec, op)
  if not r then return UNKNOWN end
  if r.state ~= HELD then return CONFLICT, r.packed end
  if sec.up + lease > r.deadline then
    r.deadline = sec.up + lease
    keep_reservation(sec, op, r)
  end
  return OK, r.packed
end
