--[[ grant — add one lot of credit.
OP         6 '<i8BBBc0i8i6i6i6Hc0' checked_pseq rank flags bucket amount effective_ms expires_ms created_ms note
REPLY      OK account | RECHECK | BUSY | TOO_MANY_GRANTS | NOT_LOADED
INVARIANT  a grant id is applied once: it is remembered until its entry is flushed, and checked_pseq proves that
           the ledger had no entry for it up to there
COST       O(grants) ]]
verbs[6] = function(sec, op)
  local checked, rank, flags, bucket, amount, effective, expires, created, note =
    read('<i8BBBc0i8i6i6i6Hc0', op.packed, op.at)
  local a = find_account(sec, op)
  if not a then return NOT_LOADED end
  local refused = refuse_change(a, op.id, checked, sec.flushed)
  if find_grant(a, op.id) then refused = OK end
  if refused then return refused, refused == OK and pack_account(a) or '' end
  if is_full(a, sec) then return TOO_MANY_GRANTS end
  local total = amount
  for _, g in ipairs(all_grants(a)) do total = total + g.available + g.held + g.debt end
  if total > AMOUNT_MAX then error('the account would have more credit than can be counted exactly') end
  insert_grant(a, {
    id = op.id, rank = rank, flags = flags, bucket = bucket, available = amount, held = 0, debt = 0,
    effective = effective, expires = expires, created = created,
  })
  remember(a, op.id, sec.pseq + 1)
  add_entry(sec, a, op.account, KIND_GRANT, amount, op.id, 0, note, 1)
  add_line(sec, op.id, amount, 0, 0, 0, 0, 0)
  keep_account(sec, op, a)
  return OK, pack_account(a)
end
