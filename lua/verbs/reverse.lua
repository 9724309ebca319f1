--[[ reverse — undo a revocation: what its grant still owes goes first, the rest is given back to the grant.
OP         17 '<i8c16i8i8BBBc0i6i6i6Hc0' checked_pseq grant_id amount owed rank flags bucket effective_ms
           expires_ms created_ms note. amount is the revocation entry's; owed is the grant's debt in Postgres at
           checked_pseq, and counts, as the grant's terms do, when the grant is not here any more
REPLY      OK account | RECHECK | BUSY | TOO_MANY_GRANTS | NOT_LOADED
INVARIANT  debt settled + given back = amount; what is given back lapses if the grant is over, else can be drawn again; a
           grant that was revoked of stops no others, also when it comes back;
           applied once, as with grant. A debt that changes while its grant is not here raises what checked_pseq must
           reach, so that owed is never out of date
COST       O(grants) ]]
verbs[17] = function(sec, op)
  local checked, grant_id, amount, owed, rank, flags, bucket, effective, expires, created, note =
    read('<i8c16i8i8BBBc0i6i6i6Hc0', op.packed, op.at)
  local a = find_account(sec, op)
  if not a then return NOT_LOADED end
  local refused = refuse_change(a, op.id, checked, sec.flushed)
  if refused then return refused, refused == OK and pack_account(a) or '' end
  local g = find_grant(a, grant_id)
  if g then owed, expires = g.debt, g.expires end
  local settled = min(owed, amount)
  local rest = amount - settled
  local lapsed = sec.now >= expires and rest or 0
  rest = rest - lapsed
  if rest > 0 and not g then
    if is_full(a, sec) then return TOO_MANY_GRANTS end
    g = {
      id = grant_id, rank = rank, flags = flags % STOPS, bucket = bucket, available = 0, held = 0, debt = owed,
      effective = effective, expires = expires, created = created,
    }
    insert_grant(a, g)
  end
  if g then
    local total = rest
    for _, other in ipairs(all_grants(a)) do total = total + other.available + other.held + other.debt end
    if total > AMOUNT_MAX then error('the account would have more credit than can be counted exactly') end
    add_available(a, g, rest, sec.now)
    g.debt = owed - settled
  end
  if settled > 0 then debt_left(a, sec.pseq + 1) end
  remember(a, op.id, sec.pseq + 1)
  add_entry(sec, a, op.account, KIND_ADJUST, amount, op.id, 0, note, 1)
  add_line(sec, grant_id, 0, 0, 0, lapsed, -rest - lapsed, -settled)
  keep_account(sec, op, a)
  return OK, pack_account(a)
end
