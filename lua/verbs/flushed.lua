--[[ flushed — the ledger is in Postgres up to here; drop records before `trim`.
OP         14 '<i8i8i8i8' epoch pseq trim_epoch trim_pseq (0 0: trim nothing)
REPLY      OK
INVARIANT  the mark never goes back and never passes the head; nothing unflushed is trimmed
COST       O(records trimmed) ]]
verbs[14] = function(sec, op)
  local epoch, pseq, trim_epoch, trim_pseq = struct.unpack('<i8i8i8i8', op.packed, op.at)
  if pseq > sec.pseq then error('flushed past the head') end
  if pseq > sec.flushed then
    sec.flushed, sec.flushed_epoch, sec.mark = pseq, epoch, true
  end
  if trim_pseq > 0 and trim_pseq <= sec.flushed then
    sec.trim = string.format('%.0f-%.0f', trim_epoch, trim_pseq)
  end
  return OK
end
