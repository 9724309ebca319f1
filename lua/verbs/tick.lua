--[[ tick — note that the partition is alive, so that after an outage its length is known.
OP         16 '' nothing
REPLY      OK
COST       O(1) ]]
verbs[16] = function(sec)
  sec.mark = true
  return OK
end
