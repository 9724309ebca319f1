-- Ledger entries. They gather in sec.entries and become one record, appended before anything else is written.

local function line(grant_id, granted, spent, returned, lapsed, revoked, debt)
  return pack('<c16i8i8i8i8i8i8', grant_id, granted, spent, returned, lapsed, revoked, debt)
end

-- Adds an entry, in pieces, and raises the account's seq, which is dense over its entries.
local function add_entry(sec, a, account, kind, amount, id, units, note, lines)
  a.seq = a.seq + 1
  local pieces = sec.entries
  if not pieces then
    pieces = {}
    sec.entries, sec.n_entries = pieces, 0
  end
  sec.n_entries = sec.n_entries + 1
  pieces[#pieces + 1] = pack('<Bi8i8Bc0c16I4Hc0B', kind, a.seq, amount, #account, account, id, units, #note, note, #lines)
  for _, l in ipairs(lines) do pieces[#pieces + 1] = l end
end

local function pack_record(sec)
  return pack('<Bi6H', 1, sec.now, sec.n_entries) .. concat(sec.entries)
end

-- Credit given back to a grant: it pays the grant's debt first; the rest lapses if the grant is over, else it can
-- be drawn again. Returns what lapsed and what paid debt.
local function give_back(a, g, amount, now)
  local pay = min(amount, g.debt)
  g.debt = g.debt - pay
  local rest = amount - pay
  if now >= g.expires then return rest, pay end
  add_available(a, g, rest, now)
  return 0, pay
end

-- Which draws give back first: on grants not expired, since a return to an expired one lapses; then those with a
-- price paid; then the last drained. meter.PlanCharge is the same rule.
local function split_charge(a, draws, charged, now)
  local order, back = {}, -charged
  for i, d in ipairs(draws) do
    d.grant = find_grant(a, d.id)
    if not d.grant then error('a drawn grant is missing from its account') end
    d.charged = d.amount
    back = back + d.amount
    d.weight = i + (d.grant.flags % 2) * GRANTS_MAX + (now < d.grant.expires and 2 * GRANTS_MAX or 0)
    order[i] = d
  end
  if back == 0 then return end
  table.sort(order, function(x, y) return x.weight > y.weight end)
  for _, d in ipairs(order) do
    local part = min(back, d.amount)
    d.charged = d.amount - part
    back = back - part
  end
end

-- Ends a held reservation: charged is kept, the rest goes back to the grants it came from, one entry is booked.
local function settle(sec, op, a, r, charged, state, kind, units)
  split_charge(a, r.draws, charged, sec.now)
  local lines = {}
  for i, d in ipairs(r.draws) do
    local g, back = d.grant, d.amount - d.charged
    g.held, g.touched = g.held - d.amount, true
    local lapsed, paid = 0, 0
    if back > 0 then lapsed, paid = give_back(a, g, back, sec.now) end
    if paid > 0 then debt_left(a, sec.pseq + 1) end
    lines[i] = line(g.id, 0, d.charged, back, lapsed, paid, -paid)
  end
  a.holds = a.holds - 1
  r.deadline = r.deadline + sec.now - sec.up -- wall time from here on: no later outage moves it
  add_entry(sec, a, r.account, kind, r.amount, op.id, units, r.note, lines)
  r.state, r.charged, r.settled, r.available = state, charged, sec.now, shown(a, available(a, sec.now), sec.now)
  keep_reservation(sec, op, r)
end
