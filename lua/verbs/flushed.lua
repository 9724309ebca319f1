--[[ flushed — the ledger is in Postgres up to here; drop records before `trim`.
OP         14 '<i8i8i8i8' epoch pseq trim_epoch trim_pseq (0 0: trim nothing)
REPLY      OK; raises when the position is past the head
INVARIANT  the mark never goes back and never passes the head; a trim beyond the mark is left undone, so that
           nothing unflushed is trimmed
COST       O(records trimmed) ]]
verbs[14] = function(sec, op)
  local epoch, pseq, trim_epoch, trim_pseq = read('<i8i8i8i8', op.packed, op.at)
  if pseq > sec.pseq or epoch > sec.epoch then error('flushed past the head') end
  if pseq > sec.flushed then
    sec.flushed, sec.flushed_epoch, sec.mark = pseq, epoch, true
  end
  -- A stream id is compared epoch first: a small pseq of a later epoch is after everything.
  local within = trim_epoch < sec.flushed_epoch or (trim_epoch == sec.flushed_epoch and trim_pseq <= sec.flushed)
  if trim_pseq > 0 and within then
    sec.trim = format('%.0f-%.0f', trim_epoch, trim_pseq)
  end
  return OK
end
