--[[ revoke — take credit back from a grant: what is available at once, the rest as debt that returned draws pay.
`beyond` says how much of the rest becomes debt: 0 all of it; 1 nothing, it is written off; 2 what is held, so that
nothing of the grant can be spent and nothing is owed for what is spent.
OP         7 '<i8c16i8BHc0' checked_pseq grant_id amount beyond note
REPLY      OK account | RECHECK | BUSY | NOT_LOADED
INVARIANT  a grant that anything was revoked of stops no others any more; available never goes below 0;
           revoked + debt ≤ amount, and equal with beyond 0; available + held + debt of the account stay within
           AMOUNT_MAX; applied once, as with grant
COST       O(grants) ]]
verbs[7] = function(sec, op)
  local checked, grant_id, amount, beyond, note = read('<i8c16i8BHc0', op.packed, op.at)
  local a = find_account(sec, op)
  if not a then return NOT_LOADED end
  local refused = refuse_change(a, op.id, checked, sec.flushed)
  if refused then return refused, refused == OK and pack_account(a) or '' end
  local g = find_grant(a, grant_id)
  local taken = g and min(g.available, amount) or 0
  if beyond == BEYOND_NOTHING then amount = taken end
  if beyond == BEYOND_HELD then amount = min(amount, taken + (g and max(0, g.held - g.debt) or 0)) end
  if g then
    local total = -taken
    for _, other in ipairs(all_grants(a)) do total = total + other.available + other.held + other.debt end
    if total + amount - taken > AMOUNT_MAX then error('the account would owe more than can be counted exactly') end
    add_available(a, g, -taken, sec.now)
    g.debt = g.debt + amount - taken
    if g.flags >= STOPS then
      remove_grant(a, g) -- flags are packed anew only with the whole grant
      g.flags = g.flags - STOPS
      insert_grant(a, g)
    end
  elseif amount > 0 then
    debt_left(a, sec.pseq + 1)
  end
  remember(a, op.id, sec.pseq + 1)
  add_entry(sec, a, op.account, KIND_REVOKE, amount, op.id, 0, note,
    {line(grant_id, 0, 0, 0, 0, taken, amount - taken)})
  keep_account(sec, op, a)
  return OK, pack_account(a)
end
