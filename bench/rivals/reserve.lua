--[[ reserve — draw an amount from an account's grants, the one that expires first before the others.
KEYS  1 order ZSET grant → expires at, ms   2 grants HASH grant → milli-credits left   3 hold HASH grant → drawn, new
ARGV  1 now, ms   2 amount > 0
REPLY 1 drawn | 0 not enough, and nothing changed ]]
local order, grants, hold = KEYS[1], KEYS[2], KEYS[3]
local now, missing = ARGV[1], tonumber(ARGV[2])

local live = redis.call('ZRANGEBYSCORE', order, now, '+inf')
if #live == 0 then
  return 0
end
local left = redis.call('HMGET', grants, unpack(live))
local draws = {}
for i, grant in ipairs(live) do
  local draw = math.min(tonumber(left[i]), missing)
  if draw > 0 then
    draws[#draws + 1] = grant
    draws[#draws + 1] = draw
    missing = missing - draw
    if missing == 0 then
      break
    end
  end
end
if missing > 0 then
  return 0
end

for i = 1, #draws, 2 do
  redis.call('HINCRBY', grants, draws[i], -draws[i + 1])
end
redis.call('HSET', hold, unpack(draws))
return 1
