--[[ apply_settle, apply_reserve — a batch of operations in one or more partitions. apply_settle runs when memory is full
too: what is held must be settled. apply_reserve carries reserve, which alone takes on more, with what settles beside it,
and is refused by Redis then, before any of it has run.
KEYS   for each section: meta open ledger, then slots where the call may write it; then accounts, outcome slots and key
       days, as the operations refer to them by number
ARGV   1 '<i6HH' caller_ms sections operations
         then, if 32768 was added to sections, '<i6' how far a test clock is ahead of TIME
         then for each section '<HBBi8i8' first_key keys account_prefix_len epoch min_pseq
         then for each operation '<HBHc16HH' size verb section id account_key done_key, and what its verb file says;
         128 added to the verb of a reserve, commit or release asks for a brief answer
REPLY  for each section '<Bi8i8i6i8i8' code epoch pseq now_ms flushed down_ms
       then for each operation '<Bc16H' code id size, and as many bytes as its verb file says ]]
redis.register_function{function_name = 'apply_settle' .. VERSION, callback = apply, flags = {'allow-oom'}}
redis.register_function{function_name = 'apply_reserve' .. VERSION, callback = apply}
