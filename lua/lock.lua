--[[ lock — take a lock, or keep the one that is the caller's. It guards no credit, so it may be lost at any time. What
the lock is for frees memory, so it can be taken when memory is full.
KEYS   1 lock STRING: its holder
ARGV   1 holder 2 keep_ms
REPLY  1 it is the caller's | 0 it is another's ]]
local function lock(keys, args)
  begin()
  local holder = call('GET', keys[1])
  if holder and holder ~= args[1] then return 0 end
  call('SET', keys[1], args[1], 'PX', args[2])
  return 1
end

redis.register_function{function_name = 'lock' .. VERSION, callback = lock, flags = {'allow-oom'}}
