package metertest

import (
	"slices"
	"time"

	"creditgate/meter"
)

// appliedMax bounds the admin changes that an account remembers until they are flushed.
const appliedMax = 64

// Load gives the partition an account from Postgres. An account that is there already is left alone.
func (m *Model) Load(name string, a meter.Account) {
	if _, ok := m.Accounts[name]; !ok {
		m.store(name, a)
	}
}

// Reload is what becomes of an account that Redis lost and that was loaded again: its credit as before, what is open
// counted as held, and no memory of admin changes, since all of them are flushed.
func (m *Model) Reload(name string) {
	a := m.Accounts[name]
	if a.Seq > 0 { // else there never was a change to forget
		a.Applied, a.PrunedPseq = nil, m.FlushedPseq
	}
	m.store(name, a)
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

// DropDone forgets the outcome slot of reservations created at createdMs: 15 minutes after its last write, and when
// Postgres has every entry as old as that.
func (m *Model) DropDone(createdMs int64) meter.Decision {
	width := (5 * time.Minute).Milliseconds()
	end := (createdMs/width + 1) * width
	code := m.drop(m.Layout.Keys(m.Partition).Done(createdMs), end, 15*time.Minute)
	if code != meter.CodeOK {
		return m.answer(code, meter.Reservation{})
	}
	m.OutcomesFromMs = max(m.OutcomesFromMs, end)
	for id := range m.Done {
		if id.CreatedMs()/width == createdMs/width {
			delete(m.Done, id)
		}
	}
	return m.answer(code, meter.Reservation{})
}

// DropKeys forgets the key records of attempts created on the day of createdMs, a day after their last write.
func (m *Model) DropKeys(createdMs int64) meter.Decision {
	day := createdMs / (24 * time.Hour).Milliseconds()
	code := m.drop(m.Layout.Keys(m.Partition).KeyDay(createdMs), (day+1)*(24*time.Hour).Milliseconds(), 24*time.Hour)
	for slot := range m.Keys {
		if code == meter.CodeOK && slot.Day == day {
			delete(m.Keys, slot)
		}
	}
	return m.answer(code, meter.Reservation{})
}

func (m *Model) drop(slot string, endMs int64, keep time.Duration) meter.Code {
	last, ok := m.Slots[slot]
	last += meter.SlotNoteMs
	if !ok || last+keep.Milliseconds() > m.NowMs || endMs > m.NowMs {
		return meter.CodeNotDue
	}
	for _, rec := range m.Ledger {
		if rec.Pseq > m.FlushedPseq && rec.OccurredMs <= last {
			return meter.CodeNotDue
		}
	}
	delete(m.Slots, slot)
	return meter.CodeOK
}

// Balance is the account as it stands.
func (m *Model) Balance(account string) meter.Decision {
	a, ok := m.Accounts[account]
	if !ok {
		return m.answer(meter.CodeNotLoaded, meter.Reservation{})
	}
	return m.told(meter.CodeOK, a)
}

// Grant adds a lot of credit, once.
func (m *Model) Grant(q meter.GrantChange) meter.Decision {
	if a, ok := m.Accounts[q.Account]; ok && slices.ContainsFunc(a.Grants, isGrant(q.Grant.ID)) {
		return m.told(meter.CodeOK, a)
	}
	a, code, changed := m.admin(q.Account, q.Grant.ID, q.CheckedPseq)
	if changed {
		return m.told(code, a)
	}
	total := q.Grant.Available
	for _, g := range a.Grants {
		total += g.Available + g.Held + g.Debt // cannot overflow: every account is kept within MaxCredits
	}
	switch {
	case len(a.Grants) >= meter.GrantsMax:
		return m.told(meter.CodeTooManyGrants, a)
	case q.Grant.Available <= 0 || !total.Valid():
		return m.told(meter.CodeError, a)
	}
	a.Grants = append(a.Grants, q.Grant)
	slices.SortFunc(a.Grants, meter.CompareGrants)
	return m.apply(q.Account, a, meter.Entry{
		Kind: meter.KindGrant, Amount: q.Grant.Available, ID: q.Grant.ID, Note: q.Note,
		Lines: []meter.Line{{Grant: q.Grant.ID, Granted: q.Grant.Available}},
	})
}

// Revoke takes credit back from a grant: what can still be drawn at once, the rest as debt. Of a grant that is gone
// all of it is debt, which only the ledger remembers. A grant that anything is revoked of stops no others any more. In
// place of an earlier revocation it takes first what that one took.
func (m *Model) Revoke(q meter.Revocation) meter.Decision {
	a, code, changed := m.admin(q.Account, q.ID, q.CheckedPseq)
	if changed {
		return m.told(code, a)
	}
	var undone meter.Reversal
	if q.Undone != nil {
		undone = *q.Undone
	}
	if q.Amount <= 0 || !q.Amount.Valid() || undone.Amount > q.Amount {
		return m.told(meter.CodeError, a)
	}
	g := &meter.Grant{ID: q.Grant, Debt: undone.Grant.Debt} // what matters of a grant that is gone
	i := slices.IndexFunc(a.Grants, isGrant(q.Grant))
	if i >= 0 {
		g = &a.Grants[i]
	}
	settled := min(g.Debt, undone.Amount)
	back := undone.Amount - settled
	g.Available += back
	g.Debt -= settled
	taken := min(q.Amount, g.Available)
	switch q.Beyond {
	case meter.BeyondNothing:
		q.Amount = taken
	case meter.BeyondHeld:
		q.Amount = min(q.Amount, taken+max(0, g.Held-g.Debt))
	case meter.BeyondDebt:
	}
	g.Available -= taken
	g.Debt += q.Amount - taken
	g.Stops = false
	var total meter.Credits
	for _, g := range a.Grants {
		total += g.Available + g.Held + g.Debt // cannot overflow, as in Grant
	}
	if !total.Valid() {
		return m.told(meter.CodeError, a)
	}
	if settled > 0 || i < 0 && q.Amount > taken {
		a.PrunedPseq = m.Pseq + 1
	}
	var entries []meter.Entry
	if undone.Amount > 0 {
		entries = append(entries, meter.Entry{
			Kind: meter.KindAdjust, Amount: undone.Amount, ID: undone.ID, Note: undone.Note,
			Lines: []meter.Line{{Grant: q.Grant, Revoked: -back, Debt: -settled}},
		})
	}
	return m.apply(q.Account, a, append(entries, meter.Entry{
		Kind: meter.KindRevoke, Amount: q.Amount, ID: q.ID, Note: q.Note,
		Lines: []meter.Line{{Grant: q.Grant, Revoked: taken, Debt: q.Amount - taken}},
	})...)
}

// Reverse undoes a revocation: what the grant still owes goes first, the rest is given back to it. Of a grant that is
// gone, Postgres knows terms and debt.
func (m *Model) Reverse(q meter.Reversal) meter.Decision {
	a, code, changed := m.admin(q.Account, q.ID, q.CheckedPseq)
	if changed {
		return m.told(code, a)
	}
	i := slices.IndexFunc(a.Grants, isGrant(q.Grant.ID))
	g := q.Grant
	g.Available, g.Held, g.Stops = 0, 0, false
	if i >= 0 {
		g = a.Grants[i]
	}
	settled := min(g.Debt, q.Amount)
	back := q.Amount - settled
	g.Debt -= settled
	e := meter.Entry{Kind: meter.KindAdjust, Amount: q.Amount, ID: q.ID, Note: q.Note}
	line := meter.Line{Grant: g.ID, Revoked: -back, Debt: -settled}
	if m.NowMs >= g.ExpiresMs {
		line.Lapsed = back
	} else {
		g.Available += back
	}
	switch {
	case i >= 0:
		a.Grants[i] = g
	case g.Available > 0 && len(a.Grants) >= meter.GrantsMax:
		return m.told(meter.CodeTooManyGrants, a)
	case g.Available > 0:
		a.Grants = append(a.Grants, g)
		slices.SortFunc(a.Grants, meter.CompareGrants)
	}
	var total meter.Credits
	for _, g := range a.Grants {
		total += g.Available + g.Held + g.Debt
	}
	if !total.Valid() {
		return m.told(meter.CodeError, a)
	}
	if settled > 0 {
		a.PrunedPseq = m.Pseq + 1
	}
	e.Lines = []meter.Line{line}
	return m.apply(q.Account, a, e)
}

// MoveExpiry sets the end of a grant. Its entry moves no credit; it is there so that Postgres learns of the move in
// the order of everything else.
func (m *Model) MoveExpiry(q meter.ExpiryMove) meter.Decision {
	a, code, changed := m.admin(q.Account, q.ID, q.CheckedPseq)
	if changed {
		return m.told(code, a)
	}
	i := slices.IndexFunc(a.Grants, isGrant(q.Grant))
	if i < 0 {
		return m.told(meter.CodeGone, a)
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
	i := slices.IndexFunc(a.Grants, isGrant(grant))
	if i < 0 {
		return m.answer(meter.CodeGone, meter.Reservation{})
	}
	g := &a.Grants[i]
	switch {
	case m.NowMs < g.ExpiresMs:
		return m.answer(meter.CodeNotDue, meter.Reservation{})
	case g.Available == 0:
		return m.answer(meter.CodeGone, meter.Reservation{})
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
		m.store(account, a)
	}
	return m.told(meter.CodeOK, m.Accounts[account])
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
	unflushed := 0
	for _, c := range a.Applied {
		if c.Pseq > m.FlushedPseq {
			unflushed++
		}
	}
	if unflushed >= appliedMax {
		return a, meter.CodeBusy, true
	}
	a.Grants, a.Applied = slices.Clone(a.Grants), slices.Clone(a.Applied)
	return a, meter.CodeOK, false
}

// apply books an admin change and remembers the id of its last entry, which is the change's own.
func (m *Model) apply(account string, a meter.Account, entries ...meter.Entry) meter.Decision {
	for i := range entries {
		entries[i].Account = account
	}
	a.Applied = append(a.Applied, meter.AppliedChange{ID: entries[len(entries)-1].ID, Pseq: m.Pseq + 1})
	m.book(account, a, entries...)
	return m.told(meter.CodeOK, m.Accounts[account])
}

// told answers with the account, where the code lets it be seen.
func (m *Model) told(code meter.Code, a meter.Account) meter.Decision {
	d := m.answer(code, meter.Reservation{})
	if code == meter.CodeOK {
		d.Account = a
	}
	return d
}

func isGrant(id meter.ID) func(meter.Grant) bool {
	return func(g meter.Grant) bool { return g.ID == id }
}
