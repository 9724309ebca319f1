package metertest

import (
	"maps"
	"slices"
	"time"

	"creditgate/meter"
)

// clockSkewMaxMs is how far a gateway's clock, which ids carry, may be off Redis', which forgets by its own.
const clockSkewMaxMs = 60_000

// Model is the reference: one partition under a clock that the test moves. Every verb answers like the scripts and
// appends the entry they would append, one record a verb unless they share a Batch. It is not safe for concurrent
// use.
type Model struct {
	State
	days  map[[16]byte]map[int64]bool // where a key's attempts have their records
	batch bool                        // the last record of the ledger takes more entries
	noted int64                       // NotedSlot before the batch, if its last write was noted so lately that another need not be
}

// NewModel is an open, empty partition at nowMs.
func NewModel(layout meter.Layout, partition uint16, nowMs int64) *Model {
	m := &Model{State: NewState(layout, partition), days: map[[16]byte]map[int64]bool{}}
	m.Epoch, m.NowMs = 1, nowMs
	return m
}

// Clone is a model that goes its own way from here.
func (m *Model) Clone() *Model {
	c := *m
	c.Accounts, c.Open, c.Done, c.Keys, c.Slots = maps.Clone(m.Accounts), maps.Clone(m.Open), maps.Clone(m.Done),
		maps.Clone(m.Keys), maps.Clone(m.Slots)
	c.Ledger, c.days = slices.Clone(m.Ledger), map[[16]byte]map[int64]bool{}
	for key, days := range m.days {
		c.days[key] = maps.Clone(days)
	}
	return &c
}

// Reserve sets q.Amount aside, or says why not. The order of its checks is part of the rules: what is known of the
// id comes first, so that a repeat is answered alike whatever happened to the account meanwhile.
func (m *Model) Reserve(q meter.Reserve) meter.Decision {
	id := q.ID.ID
	r, known := m.known(id)
	switch {
	case known && r.Account != q.Account: // only a bug can ask for that
		return m.answer(meter.CodeError, meter.Reservation{})
	case known && r.State == meter.Held:
		return m.answer(meter.CodeOK, r)
	case known:
		return m.answer(meter.CodeConflict, r)
	case id.CreatedMs() < m.OutcomesFromMs:
		return m.answer(meter.CodeStale, meter.Reservation{})
	}
	if d, taken := m.keyTaken(q.Note.Key); taken {
		return d
	}
	a, ok := m.Accounts[q.Account]
	limit := q.MaxInFlight
	if limit == 0 {
		limit = meter.InFlightMax
	}
	switch {
	case q.Amount <= 0 || !q.Amount.Valid():
		return m.answer(meter.CodeError, meter.Reservation{})
	case !ok:
		return m.answer(meter.CodeNotLoaded, meter.Reservation{})
	case a.Suspended:
		return m.answer(meter.CodeSuspended, meter.Reservation{})
	case a.Holds >= limit:
		return m.answer(meter.CodeInFlight, meter.Reservation{})
	}
	draws := meter.PlanDraws(a.Grants, q.Amount, m.NowMs)
	if draws == nil {
		d := m.answer(meter.CodeInsufficient, meter.Reservation{})
		d.Account = a
		return d
	}
	a.Grants = slices.Clone(a.Grants)
	for _, d := range draws {
		g := grantOf(a, d.Grant)
		g.Available -= d.Amount
		g.Held += d.Amount
	}
	a.Holds++
	m.store(q.Account, a)
	r = meter.Reservation{
		ID: q.ID, State: meter.Held, Account: q.Account, Amount: q.Amount, Available: a.Available(m.NowMs),
		Unlimited:  a.Unlimited(m.NowMs),
		DeadlineMs: m.NowMs + q.Lease.Milliseconds(), Note: q.Note, Draws: draws,
	}
	m.Open[id] = r
	m.keepKey(q.Note.Key, id, meter.Reservation{})
	return m.answer(meter.CodeOK, r)
}

// keyTaken answers a reserve whose Idempotency-Key is held or was charged. Released or expired attempts leave the
// key free, also for another request.
func (m *Model) keyTaken(key *meter.IdempotencyKey) (meter.Decision, bool) {
	if key == nil {
		return meter.Decision{}, false
	}
	rec, ok := m.attempt(key.Hash, meter.ID{})
	switch {
	case !ok:
		return meter.Decision{}, false
	case rec.Fingerprint != key.Fingerprint:
		return m.answer(meter.CodeKeyMismatch, meter.Reservation{}), true
	case rec.Charged():
		return m.answer(meter.CodeKeyReplay, rec.Outcome), true
	}
	return m.answer(meter.CodeKeyInProgress, m.Open[rec.Reservation]), true
}

// attempt is the charged or held attempt under a key, other than that of one id. There is at most one.
func (m *Model) attempt(hash [16]byte, other meter.ID) (KeyRecord, bool) {
	for day := range m.days[hash] {
		rec := m.Keys[KeySlot{Day: day, Hash: hash}] // empty once it was dropped
		_, held := m.Open[rec.Reservation]
		if rec.Reservation != other && (held || rec.Charged()) {
			return rec, true
		}
	}
	return KeyRecord{}, false
}

// Commit charges q.Amount of the reservation. After the lease it is charged again from what is then there, or left
// uncollected.
func (m *Model) Commit(q meter.Settle) meter.Decision { return m.commit(q, true) }

// CommitUncharged is Commit after Postgres was asked, and had no outcome of the reservation but, maybe, its expiry.
func (m *Model) CommitUncharged(q meter.Settle) meter.Decision { return m.commit(q, false) }

func (m *Model) commit(q meter.Settle, inLedger bool) meter.Decision {
	r, known := m.known(q.ID.ID)
	switch {
	case q.Amount <= 0 || !q.Amount.Valid() || known && r.Account != q.Account:
		return m.answer(meter.CodeError, meter.Reservation{})
	case !known && q.Reserved == 0:
		return m.answer(meter.CodeUnknown, meter.Reservation{})
	case !known && inLedger && q.ID.ID.CreatedMs() < m.OutcomesFromMs+clockSkewMaxMs:
		return m.answer(meter.CodeAskLedger, meter.Reservation{})
	case !known && q.Amount > q.Reserved:
		return m.answer(meter.CodeConflict, meter.Reservation{})
	case !known:
		return m.late(meter.Reservation{ID: q.ID, Account: q.Account, Amount: q.Reserved, Note: q.Note}, q)
	}
	if open := r.State == meter.Held || r.State == meter.Expired; open && q.Amount <= r.Amount && !sameKey(q.Note, r.Note) {
		return m.answer(meter.CodeUnknown, r) // the caller may send it again with this note
	}
	switch r.State {
	case meter.Held:
		if q.Amount <= r.Amount {
			return m.settle(r, meter.KindCommit, meter.Committed, q.Amount, q.Units)
		}
	case meter.Expired:
		if q.Amount <= r.Amount {
			return m.late(r, q)
		}
	case meter.Committed, meter.Late:
		if q.Amount == r.Charged {
			return m.answer(meter.CodeOK, r)
		}
	case meter.Uncollected:
		return m.answer(meter.CodeOK, r)
	case meter.Released:
	}
	return m.answer(meter.CodeConflict, r)
}

func sameKey(a, b meter.Note) bool {
	return a.Key == b.Key || a.Key != nil && b.Key != nil && a.Key.Hash == b.Key.Hash
}

// Release gives the whole reservation back. Of an id that was never seen it leaves a tombstone, so that a delayed
// reserve cannot hold credit after its gateway gave up.
func (m *Model) Release(q meter.Settle) meter.Decision {
	r, known := m.known(q.ID.ID)
	switch {
	case known && r.Account != q.Account:
		return m.answer(meter.CodeError, meter.Reservation{})
	case !known && q.ID.ID.CreatedMs() < m.OutcomesFromMs:
		return m.answer(meter.CodeAskLedger, meter.Reservation{})
	case !known:
		r = meter.Reservation{ID: q.ID, State: meter.Released, Account: q.Account, SettledMs: m.NowMs}
		m.keepDone(r)
		return m.answer(meter.CodeOK, r)
	case r.State == meter.Held:
		return m.settle(r, meter.KindRelease, meter.Released, 0, 0)
	case r.State == meter.Released || r.State == meter.Expired:
		return m.answer(meter.CodeOK, r)
	}
	return m.answer(meter.CodeConflict, r)
}

// Extend keeps a held reservation for at least lease from now.
func (m *Model) Extend(id meter.ReservationID, lease time.Duration) meter.Decision {
	r, known := m.known(id.ID)
	switch {
	case !known:
		return m.answer(meter.CodeUnknown, meter.Reservation{})
	case r.State != meter.Held:
		return m.answer(meter.CodeConflict, r)
	}
	r.DeadlineMs = max(r.DeadlineMs, m.NowMs+lease.Milliseconds())
	m.Open[id.ID] = r
	return m.answer(meter.CodeOK, r)
}

// Expire is the sweeper's release of a reservation whose lease is over.
func (m *Model) Expire(id meter.ReservationID, account string) meter.Decision {
	r, known := m.known(id.ID)
	switch {
	case known && r.Account != account:
		return m.answer(meter.CodeError, meter.Reservation{})
	case !known:
		return m.answer(meter.CodeUnknown, meter.Reservation{})
	case r.State != meter.Held:
		return m.answer(meter.CodeOK, r)
	case m.NowMs < r.DeadlineMs:
		return m.answer(meter.CodeNotDue, r)
	}
	return m.settle(r, meter.KindExpire, meter.Expired, 0, 0)
}

// settle ends a held reservation: charged stays spent, the rest goes back to the grants that it came from.
func (m *Model) settle(
	r meter.Reservation, kind meter.Kind, to meter.State, charged meter.Credits, units uint32,
) meter.Decision {
	a := m.Accounts[r.Account]
	a.Grants = slices.Clone(a.Grants)
	r.Draws = meter.PlanCharge(r.Draws, a.Grants, charged, m.NowMs)
	e := meter.Entry{Kind: kind, Amount: r.Amount, ID: r.ID.ID, Units: units, Note: r.Note}
	for _, d := range r.Draws {
		line := giveBack(grantOf(a, d.Grant), d, m.NowMs)
		if line.Debt != 0 {
			a.PrunedPseq = m.Pseq + 1
		}
		e.Lines = append(e.Lines, line)
	}
	a.Holds--
	delete(m.Open, r.ID.ID)
	return m.finish(a, r, to, charged, e)
}

// giveBack ends a draw: what returns pays the grant's debt first, lapses if the grant is over, else can be drawn
// again.
func giveBack(g *meter.Grant, d meter.Draw, nowMs int64) meter.Line {
	line := meter.Line{Grant: g.ID, Spent: d.Charged, Returned: d.Amount - d.Charged}
	g.Held -= d.Amount
	pay := min(line.Returned, g.Debt)
	g.Debt -= pay
	line.Revoked, line.Debt = pay, -pay
	if nowMs >= g.ExpiresMs {
		line.Lapsed = line.Returned - pay
		return line
	}
	g.Available += line.Returned - pay
	return line
}

// late charges a reservation that holds nothing any more, all of it or nothing, unless its Idempotency-Key stands
// for another attempt by now.
func (m *Model) late(r meter.Reservation, q meter.Settle) meter.Decision {
	a, ok := m.Accounts[r.Account]
	if !ok {
		return m.answer(meter.CodeNotLoaded, meter.Reservation{})
	}
	e := meter.Entry{Kind: meter.KindUncollected, Amount: q.Amount, ID: r.ID.ID, Units: q.Units, Note: r.Note}
	draws := meter.PlanDraws(a.Grants, q.Amount, m.NowMs)
	if draws == nil || m.keyOfAnother(r) {
		r.Draws = nil
		return m.finish(a, r, meter.Uncollected, 0, e)
	}
	a.Grants = slices.Clone(a.Grants)
	for i, d := range draws {
		draws[i].Charged = d.Amount
		grantOf(a, d.Grant).Available -= d.Amount
		e.Lines = append(e.Lines, meter.Line{Grant: d.Grant, Spent: d.Amount})
	}
	e.Kind, r.Draws = meter.KindLate, draws
	return m.finish(a, r, meter.Late, q.Amount, e)
}

func (m *Model) keyOfAnother(r meter.Reservation) bool {
	if r.Note.Key == nil {
		return false
	}
	_, ok := m.attempt(r.Note.Key.Hash, r.ID.ID)
	return ok
}

// finish books e and keeps r as the outcome, for its key too if it was charged.
func (m *Model) finish(
	a meter.Account, r meter.Reservation, to meter.State, charged meter.Credits, e meter.Entry,
) meter.Decision {
	e.Account = r.Account
	m.book(r.Account, a, e)
	note := r.Note
	r.State, r.Charged, r.SettledMs = to, charged, m.NowMs
	r.Available, r.Unlimited = m.Accounts[r.Account].Available(m.NowMs), m.Accounts[r.Account].Unlimited(m.NowMs)
	if to != meter.Expired { // a late commit still needs the note
		r.Note = meter.Note{}
	}
	m.keepDone(r)
	if charged > 0 {
		m.keepKey(note.Key, r.ID.ID, r)
	}
	return m.answer(meter.CodeOK, r)
}

func (m *Model) keepDone(r meter.Reservation) {
	m.Done[r.ID.ID] = r
	slot := meter.DoneSlot(r.ID.ID.CreatedMs())
	if !m.batch {
		m.noted = m.freshSlot()
	}
	if slot == m.noted {
		return
	}
	if slot >= m.NotedSlot {
		m.NotedSlot, m.NotedMs = slot, m.NowMs
	}
	m.Slots[m.Layout.Keys(m.Partition).Done(r.ID.ID.CreatedMs())] = m.NowMs
}

// freshSlot is the newest slot while its last note is fresh, else 0.
func (m *Model) freshSlot() int64 {
	if m.NowMs-m.NotedMs < meter.SlotNoteMs {
		return m.NotedSlot
	}
	return 0
}

func (m *Model) keepKey(key *meter.IdempotencyKey, id meter.ID, outcome meter.Reservation) {
	if key == nil {
		return
	}
	slot := keySlot(key.Hash, id)
	m.Keys[slot] = KeyRecord{Reservation: id, Fingerprint: key.Fingerprint, Outcome: outcome}
	if m.days[key.Hash] == nil {
		m.days[key.Hash] = map[int64]bool{}
	}
	m.days[key.Hash][slot.Day] = true
	m.Slots[m.Layout.Keys(m.Partition).KeyDay(id.CreatedMs())] = m.NowMs
}

// Batch runs verbs that share one ledger record.
func (m *Model) Batch(verbs func()) {
	before := len(m.Ledger)
	m.Ledger = append(m.Ledger, meter.Record{
		Layout: m.Layout.Number, Partition: m.Partition, Position: meter.Position{Epoch: m.Epoch, Pseq: m.Pseq + 1},
		OccurredMs: m.NowMs,
	})
	m.batch, m.noted = true, m.freshSlot()
	verbs()
	m.batch = false
	if len(m.Ledger[before].Entries) == 0 {
		m.Ledger = m.Ledger[:before]
		return
	}
	m.Pseq++
}

// book appends entries and stores the account.
func (m *Model) book(name string, a meter.Account, entries ...meter.Entry) {
	if !m.batch {
		m.Batch(func() { m.book(name, a, entries...) })
		return
	}
	last := &m.Ledger[len(m.Ledger)-1]
	for _, e := range entries {
		a.Seq++
		e.Seq = a.Seq
		last.Entries = append(last.Entries, e)
	}
	m.store(name, a)
}

// store keeps an account, without what can never move again: grants that hold nothing, unless they still stop others,
// and the ids of admin changes whose entries are flushed. Of those only the newest pseq stays.
func (m *Model) store(name string, a meter.Account) {
	a.Grants = slices.DeleteFunc(slices.Clone(a.Grants), func(g meter.Grant) bool {
		gone := g.Available == 0 && g.Held == 0 && (!g.Stops || m.NowMs >= g.ExpiresMs)
		if gone && g.Debt > 0 { // only the ledger remembers it from here on
			a.PrunedPseq = max(a.PrunedPseq, m.Pseq+1)
		}
		return gone
	})
	a.Applied = slices.DeleteFunc(slices.Clone(a.Applied), func(c meter.AppliedChange) bool {
		if c.Pseq <= m.FlushedPseq {
			a.PrunedPseq = max(a.PrunedPseq, c.Pseq)
		}
		return c.Pseq <= m.FlushedPseq
	})
	m.Accounts[name] = a
}

func (m *Model) known(id meter.ID) (meter.Reservation, bool) {
	if r, ok := m.Open[id]; ok {
		return r, true
	}
	r, ok := m.Done[id]
	return r, ok
}

func (m *Model) answer(code meter.Code, r meter.Reservation) meter.Decision {
	return meter.Decision{Code: code, Reservation: r, NowMs: m.NowMs}
}

// grantOf points into a.Grants; the grants of draws are always there, since what is held keeps them.
func grantOf(a meter.Account, id meter.ID) *meter.Grant {
	return &a.Grants[slices.IndexFunc(a.Grants, func(g meter.Grant) bool { return g.ID == id })]
}
