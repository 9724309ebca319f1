--[[ suspend — set or clear the account's suspension.
OP         10 '<I4B' version suspended
REPLY      OK account | NOT_LOADED
INVARIANT  an older version than the account has changes nothing; no entry; holds stay and may be settled
COST       O(grants) ]]
verbs[10] = function(sec, op)
  local version, suspended = read('<I4B', op.packed, op.at)
  local a = find_account(sec, op)
  if not a then return NOT_LOADED end
  if version > a.version then
    a.version, a.flags = version, a.flags - a.flags % 2 + suspended
    keep_account(sec, op, a)
  end
  return OK, pack_account(a)
end
