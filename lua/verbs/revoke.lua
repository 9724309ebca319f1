--[[ revoke — take credit back from a grant: what is available at once, the rest as debt that returned draws pay.
`beyond` says how much of the rest becomes debt: 0 all of it; 1 nothing, it is written off; 2 what is held, so that
nothing of the grant can be spent and nothing is owed for what is spent. With undone above 0 it takes the place of an
earlier revocation: what that one took or still owes is undone and is there to be taken again, in the same step.
OP         7 '<i8c16i8Bi8i8c16Hc0Hc0' checked_pseq grant_id amount beyond undone owed reversal_id reversal_note note.
           undone is the amount of the earlier revocation's entry, at most amount; owed is the grant's debt in Postgres
           at checked_pseq, and counts when the grant is not here any more
REPLY      OK account | RECHECK | BUSY | NOT_LOADED
INVARIANT  revoked + debt ≤ amount, and equal with beyond 0; a grant that was revoked of stops no others any more;
           available never goes below 0, nor rises; available + held + debt of the account stay within
           AMOUNT_MAX; applied once, as with grant, together with the reversal's entry
COST       O(grants) ]]
verbs[7] = function(sec, op)
  local checked, grant_id, amount, beyond, undone, owed, reversal_id, reversal_note, note =
    read('<i8c16i8Bi8i8c16Hc0Hc0', op.packed, op.at)
  local a = find_account(sec, op)
  if not a then return NOT_LOADED end
  local refused = refuse_change(a, op.id, checked, sec.flushed)
  if refused then return refused, refused == OK and pack_account(a) or '' end
  if undone > amount then error('a revocation takes the place of a larger one') end
  local g = find_grant(a, grant_id)
  if g then owed = g.debt end
  local settled = min(owed, undone)
  local back = undone - settled -- never available: it is taken again at once, also of a grant that is over
  local taken = min((g and g.available or 0) + back, amount)
  if beyond == BEYOND_NOTHING then amount = taken end
  if beyond == BEYOND_HELD then amount = min(amount, taken + (g and max(0, g.held - (g.debt - settled)) or 0)) end
  if g then
    local total = back - taken - settled
    for _, other in ipairs(all_grants(a)) do total = total + other.available + other.held + other.debt end
    if total + amount - taken > AMOUNT_MAX then error('the account would owe more than can be counted exactly') end
    add_available(a, g, back - taken, sec.now)
    g.debt = g.debt - settled + amount - taken
    if g.flags >= STOPS then
      remove_grant(a, g) -- flags are packed anew only with the whole grant
      g.flags = g.flags - STOPS
      insert_grant(a, g)
    end
  end
  if settled > 0 or not g and amount > taken then debt_left(a, sec.pseq + 1) end
  remember(a, op.id, sec.pseq + 1)
  if undone > 0 then
    add_entry(sec, a, op.account, KIND_ADJUST, undone, reversal_id, 0, reversal_note, 1)
    add_line(sec, grant_id, 0, 0, 0, 0, -back, -settled)
  end
  add_entry(sec, a, op.account, KIND_REVOKE, amount, op.id, 0, note, 1)
  add_line(sec, grant_id, 0, 0, 0, 0, taken, amount - taken)
  keep_account(sec, op, a)
  return OK, pack_account(a)
end
