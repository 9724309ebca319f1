--[[ store_answer — keep the answer of a request with an Idempotency-Key for a day, within a budget. It holds no
credit: a full budget means that a replay says so instead of repeating the answer. The first answer of a request
stays: a repeat is the same one, sent again because its reply was lost.
KEYS   1 used HASH hour → bytes 2 answer STRING
ARGV   1 answer 2 budget_bytes 3 keep_ms
REPLY  1 stored, now or before | 0 over the budget ]]
local function store_answer(keys, args)
  begin()
  local used_key, answer_key = keys[1], keys[2]
  local text, budget, keep = args[1], tonumber(args[2]), tonumber(args[3])
  if call('EXISTS', answer_key) == 1 then return 1 end
  local hour = floor(call('TIME')[1] / 3600)
  local hours = call('HGETALL', used_key)
  local total = #text
  for i = 1, #hours, 2 do
    -- An hour's answers are all gone once keep has passed since its end; until then they count in full.
    if (tonumber(hours[i]) + 1) * 3600 * 1000 + keep <= hour * 3600 * 1000 then call('HDEL', used_key, hours[i])
    else total = total + tonumber(hours[i + 1]) end
  end
  if total > budget then return 0 end
  call('SET', answer_key, text, 'PX', keep)
  call('HINCRBY', used_key, hour, #text)
  return 1
end

redis.register_function{function_name = 'store_answer' .. VERSION, callback = store_answer}
