--[[ read — an account, or a reservation, as it stands. Writes nothing.
OP         11 '<B' what: 1 the account, 2 the reservation
REPLY      OK account | OK reservation | NOT_LOADED | UNKNOWN | ASK_LEDGER
COST       O(grants) ]]
verbs[11] = function(sec, op)
  if read('<B', op.packed, op.at) == 1 then
    local a = find_account(sec, op)
    if not a then return NOT_LOADED end
    return OK, pack_account(a)
  end
  local r = find_reservation(sec, op)
  if r then return OK, r.packed end
  return created_ms(op.id) < sec.outcomes_from and ASK_LEDGER or UNKNOWN
end
