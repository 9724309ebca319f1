--[[ load key — put the record of a charged Idempotency-Key from Postgres into Redis, if it is not there.
OP         13 '<Hc0' packed reservation, then the key part
REPLY      OK
INVARIANT  never overwrites
COST       O(1) ]]
verbs[13] = function(sec, op)
  local packed, at = struct.unpack('<Hc0', op.packed, op.at)
  local key = unpack_key(op.packed, at)
  if not find_key(sec, key) then keep_key(sec, key, op.id, packed) end
  return OK
end
