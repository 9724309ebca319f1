--[[ release — give a reservation back whole. An id never seen is marked released, so that a delayed reserve with
it is refused.
OP         3 '' nothing more
REPLY      OK reservation (released or expired) | CONFLICT reservation (charged or uncollected) | NOT_LOADED |
           ASK_LEDGER (an id so old needs no mark: reserve refuses it as STALE)
INVARIANT  charged = 0; all draws return; one entry, none for an id never seen
COST       O(draws · grants) ]]
verbs[3] = function(sec, op)
  local r = find_reservation(sec, op)
  if not r then
    if created_ms(op.id) < sec.outcomes_from then return ASK_LEDGER end
    r = {
      state = RELEASED, amount = 0, charged = 0, available = 0, deadline = 0, settled = sec.now,
      account = op.account, note = '', draws = {},
    }
    keep_reservation(sec, op, r)
    return OK, r.packed
  end
  if r.state == RELEASED or r.state == EXPIRED then return OK, r.packed end
  if r.state ~= HELD then return CONFLICT, r.packed end
  local a = find_account(sec, op)
  if not a then return NOT_LOADED end
  settle(sec, op, a, r, 0, RELEASED, KIND_RELEASE, 0)
  keep_account(sec, op, a)
  return OK, r.packed
end
