#!lua flags=allow-oom
--[[ apply_settle — every verb that ends, keeps or administers, for a batch of operations in one or more partitions.
It runs when memory is full too: what is held must be settled, and only reserve takes on more.
KEYS   for each section: meta ledger open lapses slots; then accounts, outcome slots and key days, as the
       operations refer to them by number
ARGV   1 '<i6H' caller_ms sections, then for each '<Hi8i8' first_key epoch min_pseq
       2… one operation each: '<BHc16HH' verb section id account_key done_key, then what its verb file says
REPLY  for each section '<Bi8i8i6i8i8' code epoch pseq now_ms flushed down_ms
       for each operation '<Bc16' code id, then what its verb file says ]]
local verbs, account_raw = {}, {}
--include lib/codes.lua
--include lib/account.lua
--include lib/reservation.lua
--include lib/ledger.lua
--include lib/section.lua
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
--include lib/batch.lua
