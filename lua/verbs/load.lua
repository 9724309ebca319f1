--[[ load — put an account from Postgres into Redis, if it is not there.
OP         12 '<i8Hc0' epoch packed account
REPLY      OK | EPOCH: what the caller read from Postgres and Redis was under another epoch
INVARIANT  never overwrites; what the account had is what the ledger says, or it is not written
COST       O(grants) ]]
verbs[12] = function(sec, op)
  local epoch, packed = read('<i8Hc0', op.packed, op.at)
  if epoch ~= sec.epoch then return EPOCH end
  sec.mark = true -- a rebuild shows that it is alive
  if find_account(sec, op) then return OK end
  local a = unpack_account(packed)
  for _, g in ipairs(all_grants(a)) do
    g.touched = true -- so that one that holds nothing is forgotten
  end
  keep_account(sec, op, a)
  return OK
end
