--[[ load key — put the record of a charged Idempotency-Key from Postgres into Redis, unless there is a newer one.
OP         13 '<Hc0' packed reservation, then the key part
REPLY      OK
INVARIANT  the newest outcome of a key wins, in whatever order they are loaded; a held attempt stays
COST       O(1) ]]
verbs[13] = function(sec, op)
  local packed, at = read('<Hc0', op.packed, op.at)
  local key = unpack_key(op.packed, at)
  local k = find_key(sec, key)
  if k and (k.held or unpack_reservation(k.outcome).settled >= unpack_reservation(packed).settled) then return OK end
  keep_key(sec, key, op.id, packed)
  return OK
end
