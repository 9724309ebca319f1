package metertest

import (
	"slices"

	"creditgate/meter"
)

// appliedMax bounds the admin changes that an account remembers until they are flushed.
const appliedMax = 64

// Load gives the partition an account from Postgres. An account that is there already is left alone.
func (m *Model) Load(name string, a meter.Account) {
	if _, ok := m.Accounts[name]; !ok {
		m.Accounts[name] = a
	}
}

// Flushed says that Postgres has every record up to pseq.
func (m *Model) Flushed(pseq uint64) { m.FlushedPseq = max(m.FlushedPseq, min(pseq, m.Pseq)) }

// Outage lets d pass without the partition: open leases gain it.
func (m *Model) Outage(ms int64) {
	m.NowMs += ms
	for id, r := range m.Open {
		r.DeadlineMs += ms
		m.Open[id] = r
	}
}

// Forget drops the outcomes of reservations created before untilMs.
func (m *Model) Forget(untilMs int64) {
	m.OutcomesFromMs = max(m.OutcomesFromMs, untilMs)
	for id := range m.Done {
		if id.CreatedMs() < untilMs {
			delete(m.Done, id)
		}
	}
}

// Balance is the account as it stands.
func (m *Model) Balance(account string) meter.Decision {
	a, ok := m.Accounts[account]
	if !ok {
		return m.answer(meter.CodeNotLoaded, meter.Reservation{})
	}
	d := m.answer(meter.CodeOK, meter.Reservation{})
	d.Account = a
	return d
}

// Grant adds a lot of credit, once.
func (m *Model) Grant(q meter.GrantChange) meter.Decision {
	a, code, changed := m.admin(q.Account, q.Grant.ID, q.CheckedPseq)
	if changed {
		return m.answer(code, meter.Reservation{})
	}
	if slices.ContainsFunc(a.Grants, func(g meter.Grant) bool { return g.ID == q.Grant.ID }) {
		return m.answer(meter.CodeOK, meter.Reservation{})
	}
	total := q.Grant.Available
	for _, g := range a.Grants {
		total += g.Available + g.Held // cannot overflow: every account is kept within MaxCredits
	}
	switch {
	case q.Grant.Available <= 0 || !total.Valid():
		return m.answer(meter.CodeError, meter.Reservation{})
	case len(a.Grants) >= meter.GrantsMax:
		return m.answer(meter.CodeTooManyGrants, meter.Reservation{})
	}
	a.Grants = append(a.Grants, q.Grant)
	slices.SortFunc(a.Grants, meter.CompareGrants)
	return m.apply(q.Account, a, meter.Entry{
		Kind: meter.KindGrant, Amount: q.Grant.Available, ID: q.Grant.ID, Note: q.Note,
		Lines: []meter.Line{{Grant: q.Grant.ID, Granted: q.Grant.Available}},
	})
}

// Revoke takes credit back from a grant: what can still be drawn at once, the rest as debt.
func (m *Model) Revoke(q meter.Revocation) meter.Decision {
	a, code, changed := m.admin(q.Account, q.ID, q.CheckedPseq)
	if changed {
		return m.answer(code, meter.Reservation{})
	}
	i := slices.IndexFunc(a.Grants, func(g meter.Grant) bool { return g.ID == q.Grant })
	switch {
	case q.Amount <= 0 || !q.Amount.Valid():
		return m.answer(meter.CodeError, meter.Reservation{})
	case i < 0:
		return m.answer(meter.CodeGone, meter.Reservation{})
	}
	g := &a.Grants[i]
	take := min(q.Amount, g.Available)
	g.Available -= take
	g.Debt += q.Amount - take
	return m.apply(q.Account, a, meter.Entry{
		Kind: meter.KindRevoke, Amount: q.Amount, ID: q.ID, Note: q.Note,
		Lines: []meter.Line{{Grant: g.ID, Revoked: take, Debt: q.Amount - take}},
	})
}

// MoveExpiry sets the end of a grant. Its entry moves no credit; it is there so that Postgres learns of the move in
// the order of everything else.
func (m *Model) MoveExpiry(q meter.ExpiryMove) meter.Decision {
	a, code, changed := m.admin(q.Account, q.ID, q.CheckedPseq)
	if changed {
		return m.answer(code, meter.Reservation{})
	}
	i := slices.IndexFunc(a.Grants, func(g meter.Grant) bool { return g.ID == q.Grant })
	if i < 0 {
		return m.answer(meter.CodeGone, meter.Reservation{})
	}
	a.Grants[i].ExpiresMs = q.ExpiresMs
	slices.SortFunc(a.Grants, meter.CompareGrants)
	return m.apply(q.Account, a, meter.Entry{
		Kind: meter.KindAdjust, ID: q.ID, Note: q.Note, Lines: []meter.Line{{Grant: q.Grant}},
	})
}

// Lapse takes what an expired grant still has. What is held of it lapses when it comes back.
func (m *Model) Lapse(account string, grant meter.ID) meter.Decision {
	a, ok := m.Accounts[account]
	if !ok {
		return m.answer(meter.CodeNotLoaded, meter.Reservation{})
	}
	a.Grants = slices.Clone(a.Grants)
	i := slices.IndexFunc(a.Grants, func(g meter.Grant) bool { return g.ID == grant })
	if i < 0 {
		return m.answer(meter.CodeGone, meter.Reservation{})
	}
	g := &a.Grants[i]
	switch {
	case m.NowMs < g.ExpiresMs:
		return m.answer(meter.CodeNotDue, meter.Reservation{})
	case g.Available == 0:
		return m.answer(meter.CodeOK, meter.Reservation{})
	}
	lapsed := g.Available
	g.Available = 0
	m.book(account, a, meter.Entry{
		Kind: meter.KindLapse, Account: account, Amount: lapsed, ID: grant,
		Lines: []meter.Line{{Grant: grant, Lapsed: lapsed}},
	})
	return m.answer(meter.CodeOK, meter.Reservation{})
}

// Suspend sets the flag, unless a newer version of it was seen.
func (m *Model) Suspend(account string, suspended bool, version uint32) meter.Decision {
	a, ok := m.Accounts[account]
	if !ok {
		return m.answer(meter.CodeNotLoaded, meter.Reservation{})
	}
	if version > a.FlagsVersion {
		a.Suspended, a.FlagsVersion = suspended, version
		m.Accounts[account] = a
	}
	return m.answer(meter.CodeOK, meter.Reservation{})
}

// admin answers a change that was applied before, or that cannot be told from one that was: the account forgets the
// ids of flushed changes, and then only Postgres knows. The account it returns may be changed freely.
func (m *Model) admin(account string, id meter.ID, checkedPseq uint64) (meter.Account, meter.Code, bool) {
	a, ok := m.Accounts[account]
	switch {
	case !ok:
		return a, meter.CodeNotLoaded, true
	case slices.ContainsFunc(a.Applied, func(c meter.AppliedChange) bool { return c.ID == id }):
		return a, meter.CodeOK, true
	case checkedPseq < a.PrunedPseq:
		return a, meter.CodeRecheck, true
	}
	a.Grants, a.Applied = slices.Clone(a.Grants), slices.Clone(a.Applied)
	a.Applied = slices.DeleteFunc(a.Applied, func(c meter.AppliedChange) bool {
		if c.Pseq <= m.FlushedPseq {
			a.PrunedPseq = max(a.PrunedPseq, c.Pseq)
		}
		return c.Pseq <= m.FlushedPseq
	})
	if len(a.Applied) >= appliedMax {
		return a, meter.CodeBusy, true
	}
	return a, meter.CodeOK, false
}

// apply books an admin change and remembers its id.
func (m *Model) apply(account string, a meter.Account, e meter.Entry) meter.Decision {
	e.Account = account
	a.Applied = append(a.Applied, meter.AppliedChange{ID: e.ID, Pseq: m.Pseq + 1})
	m.book(account, a, e)
	return m.answer(meter.CodeOK, meter.Reservation{})
}
