--[[ reserve — set `amount` aside from the account's grants, in drain order.
OP         1 '<i8i6I4Hc0' amount lease_ms holds_max note, then the key part
REPLY      OK reservation | CONFLICT reservation (settled) | INSUFFICIENT account | KEY_IN_PROGRESS, KEY_REPLAY id
           and reservation | KEY_MISMATCH | NOT_LOADED | SUSPENDED | IN_FLIGHT | STALE
INVARIANT  available + held of every grant is unchanged; nothing changes unless OK; no entry, no seq; nothing is drawn
           behind a live grant that stops
COST       O(grants) ]]
verbs[1] = function(sec, op)
  local amount, lease, holds_max, note, at = read('<i8i6I4Hc0', op.packed, op.at)
  local key = unpack_key(op.packed, at)
  local r = find_reservation(sec, op)
  if r then return r.state == HELD and OK or CONFLICT, r.packed end
  if created_ms(op.id) < sec.outcomes_from then return STALE end
  if key then
    local k = find_key(sec, key)
    if k and k.fingerprint ~= key.fingerprint then return KEY_MISMATCH end
    if k and k.held then return KEY_IN_PROGRESS, k.id .. k.held.packed end
    if k then return KEY_REPLAY, k.id .. k.outcome end
  end
  local a = find_account(sec, op)
  if not a then return NOT_LOADED end
  if a.suspended then return SUSPENDED end
  if a.holds >= holds_max then return IN_FLIGHT end
  local left = available(a, sec.now) - amount
  if left < 0 then return INSUFFICIENT, pack_account(a) end

  r = {
    state = HELD, amount = amount, charged = 0, available = shown(a, left, sec.now), deadline = sec.up + lease, settled = 0,
    account = op.account, note = note, draws = take(a, amount, sec.now), packed = false, id = false, done_key = false,
  }
  for _, d in ipairs(r.draws) do d.grant.held = d.grant.held + d.amount end
  a.holds = a.holds + 1
  keep_account(sec, op, a)
  keep_reservation(sec, op, r)
  if key then keep_key(sec, key, op.id, '') end
  return OK, r.packed
end
