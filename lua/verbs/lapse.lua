--[[ lapse — book what an expired grant still had.
OP         8 '<c16' grant_id
REPLY      OK | NOT_DUE (the expiry was moved) | GONE (nothing left of it) | NOT_LOADED
INVARIANT  only what is available lapses; what is held lapses if it comes back; a repeat finds nothing
COST       O(grants) ]]
verbs[8] = function(sec, op)
  local grant_id = read('<c16', op.packed, op.at)
  local a = find_account(sec, op)
  if not a then return NOT_LOADED end
  local g = find_grant(a, grant_id)
  if g and sec.now < g.expires then return NOT_DUE end
  if not g or g.available == 0 then return GONE end
  local lapsed = g.available
  add_available(a, g, -lapsed, sec.now)
  add_entry(sec, a, op.account, KIND_LAPSE, lapsed, grant_id, 0, '', 1)
  add_line(sec, grant_id, 0, 0, 0, lapsed, 0, 0)
  keep_account(sec, op, a)
  return OK
end
