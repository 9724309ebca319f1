#!lua
--[[ apply_reserve — reserve, for a batch of operations in one or more partitions. Refused by Redis when memory is
full: nothing new is taken on then.
KEYS   as apply_settle
ARGV   as apply_settle
REPLY  as apply_settle ]]
local verbs, account_raw = {}, {}
--include lib/codes.lua
--include lib/account.lua
--include lib/reservation.lua
--include lib/ledger.lua
--include lib/section.lua
--include verbs/reserve.lua
--include lib/batch.lua
