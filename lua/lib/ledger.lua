-- Ledger entries. They gather in sec.entries and become one record, appended before anything else is written.

-- Adds an entry and raises the account's seq, which is dense over its entries. Its lines are added after it, with
-- add_line, as many as it was said to have.
local function add_entry(sec, a, account, kind, amount, id, units, note, n_lines)
  a.seq = a.seq + 1
  local entry = pack('<Bi8i8Bc0c16I4Hc0B', kind, a.seq, amount, #account, account, id, units, #note, note, n_lines)
  local pieces = sec.entries
  if pieces then
    sec.n_entries = sec.n_entries + 1
    pieces[#pieces + 1] = entry
  else sec.entries, sec.n_entries = {entry}, 1 end
end

local function add_line(sec, grant_id, granted, spent, returned, lapsed, revoked, debt)
  local pieces = sec.entries
  pieces[#pieces + 1] = pack('<c16i8i8i8i8i8i8', grant_id, granted, spent, returned, lapsed, revoked, debt)
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
  local back = -charged
  for i = 1, #draws do
    local d = draws[i]
    d.grant = find_grant(a, d.id)
    if not d.grant then error('a drawn grant is missing from its account') end
    d.charged = d.amount
    back = back + d.amount
  end
  if back == 0 then return end
  local order = {}
  for i, d in ipairs(draws) do
    d.weight = i + (d.grant.flags % 2) * GRANTS_MAX + (now < d.grant.expires and 2 * GRANTS_MAX or 0)
    order[i] = d
  end
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
  r.deadline = r.deadline + sec.now - sec.up -- wall time from here on: no later outage moves it
  local draws = r.draws
  add_entry(sec, a, r.account, kind, r.amount, op.id, units, r.note, #draws)
  for i = 1, #draws do
    local d = draws[i]
    local g, back = d.grant, d.amount - d.charged
    g.held, g.touched = g.held - d.amount, true
    local lapsed, paid = 0, 0
    if back > 0 then lapsed, paid = give_back(a, g, back, sec.now) end
    if paid > 0 then debt_left(a, sec.pseq + 1) end
    add_line(sec, g.id, 0, d.charged, back, lapsed, paid, -paid)
  end
  a.holds = a.holds - 1
  local left = available(a, sec.now)
  if a.flags >= FAIR then left = shown(a, left, sec.now) end
  r.state, r.charged, r.settled, r.available = state, charged, sec.now, left
  keep_reservation(sec, op, r)
end
