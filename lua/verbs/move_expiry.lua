--[[ move expiry — let a grant end at another time.
OP         9 '<i8c16i6Hc0' checked_pseq grant_id expires_ms note
REPLY      OK account | GONE | RECHECK | BUSY | NOT_LOADED
INVARIANT  no credit moves; drain order holds afterwards; applied once, as with grant
COST       O(grants) ]]
verbs[9] = function(sec, op)
  local checked, grant_id, expires, note = read('<i8c16i6Hc0', op.packed, op.at)
  local a = find_account(sec, op)
  if not a then return NOT_LOADED end
  local refused = refuse_change(a, op.id, checked, sec.flushed)
  if refused then return refused, refused == OK and pack_account(a) or '' end
  local g = find_grant(a, grant_id)
  if not g then return GONE end
  remove_grant(a, g)
  g.expires = expires
  insert_grant(a, g)
  remember(a, op.id, sec.pseq + 1)
  add_entry(sec, a, op.account, KIND_ADJUST, 0, op.id, 0, note, 1)
  add_line(sec, grant_id, 0, 0, 0, 0, 0, 0)
  keep_account(sec, op, a)
  return OK, pack_account(a)
end
