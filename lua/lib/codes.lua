-- Reply codes, states, kinds and bounds: the one place on this side. TestConstants compares each with Go.

local OK = 1
local INSUFFICIENT = 2
local SUSPENDED = 3
local IN_FLIGHT = 4
local KEY_IN_PROGRESS = 5
local KEY_REPLAY = 6
local KEY_MISMATCH = 7
local CONFLICT = 8
local NOT_LOADED = 9
local UNKNOWN = 10
local ASK_LEDGER = 11
local STALE = 12
local TOO_MANY_GRANTS = 13
local RECHECK = 14
local GONE = 15
local NOT_DUE = 16
local BUSY = 17
local FENCED = 20
local EPOCH = 21
local REGRESSED = 22
local CLOSED = 23
local TORN = 24
local CLOCK = 25

local HELD = 1
local COMMITTED = 2
local RELEASED = 3
local EXPIRED = 4
local LATE = 5
local UNCOLLECTED = 6

local KIND_GRANT = 1
local KIND_COMMIT = 2
local KIND_RELEASE = 3
local KIND_EXPIRE = 4
local KIND_LATE = 5
local KIND_UNCOLLECTED = 6
local KIND_LAPSE = 7
local KIND_REVOKE = 8
local KIND_ADJUST = 9

-- What becomes of the part of a revocation that is not available any more.
local BEYOND_NOTHING = 1
local BEYOND_HELD = 2

local GRANTS_MAX = 64
local RANK_MAX = 255
local APPLIED_MAX = 64
local AMOUNT_MAX = 9007199254740991
local NEVER = 140737488355327
local CLOCK_SKEW_MAX_MS = 60000
local DONE_SLOT_MS = 300000
local DONE_KEEP_MS = 900000
local KEY_KEEP_MS = 86400000
local SLOT_NOTE_MS = 10000

-- Of a grant's flags; the first, 1, is that it was paid for. Unlimited: a fair-use cap, shown as unlimited. Stops: while
-- the grant is in force the buckets behind its own are not available, even when it is used up. It is the highest flag,
-- so `flags >= STOPS` asks for it.
local UNLIMITED = 2
local STOPS = 4
-- Of an account's flags; the first, 1, is that it is suspended. Fair: one of its grants is unlimited or stops. Other
-- accounts pay nothing for the rule.
local FAIR = 2

-- An operation whose verb has this added is answered OK with the first bytes of the reservation only: up to its deadline.
local BRIEF = 128
local BRIEF_SIZE = 32
local BRIEF_REPLY = '<Bc16Hc' .. BRIEF_SIZE
local REPLID_SIZE = 40 -- hexadecimal digits

-- Added to the number of sections when the caller's clock is a test clock that was moved.
local MOVED = 32768

-- Where a section's own keys stand after its first one, meta.
local OPEN_RESERVATIONS, LEDGER, SLOTS = 1, 2, 3
