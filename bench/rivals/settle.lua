--[[ settle — end a hold: count it as spent, or give it back.
KEYS  1 grants HASH grant → milli-credits left, and what was spent   2 hold HASH grant → drawn
ARGV  1 charge: 1 spent, 0 given back
REPLY 1 settled | 0 there is no such hold ]]
local grants, hold = KEYS[1], KEYS[2]
local spent = ARGV[1] == '1'

local draws = redis.call('HGETALL', hold)
if #draws == 0 then
  return 0
end
for i = 1, #draws, 2 do
  redis.call('HINCRBY', grants, spent and 'spent' or draws[i], draws[i + 1])
end
redis.call('DEL', hold)
return 1
