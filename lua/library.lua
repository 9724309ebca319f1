--[[ The library of functions that change credit, in the order in which its parts build on each other. A function of a
library is made once, when it is loaded; a script would be made anew, with all that it defines, at every call.
VERSION is put before this by lua.Load and ends every function's name, so that gateways of two versions share a Redis. ]]
-- What Lua and Redis offer, by short names; no global is there while the library is loaded, so begin names them, as the
-- first thing of a call. They stay for the calls after it.
local call, read, pack, sub, find, byte, format, concat, min, max, floor, abs
local function begin()
  if call then return end
  call, read, pack = redis.call, struct.unpack, struct.pack
  sub, find, byte = string.sub, string.find, string.byte
  format, concat = string.format, table.concat
  min, max, floor, abs = math.min, math.max, math.floor, math.abs
end

local verbs = {}        -- by number, filled by verbs/*.lua
local KEYS, account_raw -- of the present call: its keys, and account key → packed value, false if there is none
--include lib/codes.lua
--include lib/account.lua
--include lib/reservation.lua
--include lib/ledger.lua
--include lib/section.lua
--include verbs/reserve.lua
--include verbs/commit.lua
--include verbs/release.lua
--include verbs/expire.lua
--include verbs/extend.lua
--include verbs/grant.lua
--include verbs/revoke.lua
--include verbs/lapse.lua
--include verbs/move_expiry.lua
--include verbs/suspend.lua
--include verbs/read.lua
--include verbs/load.lua
--include verbs/load_key.lua
--include verbs/flushed.lua
--include verbs/drop.lua
--include verbs/tick.lua
--include verbs/reverse.lua
--include lib/batch.lua
--include apply.lua
--include open.lua
--include lock.lua
--include store_answer.lua
