package persist_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
)

// A mirror holds one account against the reference model: what the engine was asked and answered is kept by a witness,
// and replayed in the order of the ledger. Every answer, every entry and every grant must be the model's, in Redis and in
// Postgres.

// call is one verb that was answered.
type call struct {
	account string
	id      meter.ID // of its entry
	undone  meter.ID // of the entry before that, of a revocation in place of another
	got     meter.Decision
	model   func(m *metertest.Model) meter.Decision
}

// anyCursor is a cursor at which the model believes that a change was not applied: the ledger says when it was.
const anyCursor = math.MaxUint64

// witness is an engine that keeps what it was asked and what it answered.
type witness struct {
	*meter.Engine

	mu    sync.Mutex
	calls []call
}

func (w *witness) keep(c call, err error) (meter.Decision, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.calls = append(w.calls, c)
	}
	return c.got, err
}

// taken are the calls since the last time.
func (w *witness) taken() []call {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := w.calls
	w.calls = nil
	return calls
}

func (w *witness) Grant(ctx context.Context, q meter.GrantChange) (meter.Decision, error) {
	d, err := w.Engine.Grant(ctx, q)
	q.CheckedPseq = anyCursor
	return w.keep(call{
		account: q.Account, id: q.Grant.ID, got: d, model: func(m *metertest.Model) meter.Decision { return m.Grant(q) },
	}, err)
}

func (w *witness) Revoke(ctx context.Context, q meter.Revocation) (meter.Decision, error) {
	d, err := w.Engine.Revoke(ctx, q)
	q.CheckedPseq = anyCursor
	c := call{account: q.Account, id: q.ID, got: d, model: func(m *metertest.Model) meter.Decision { return m.Revoke(q) }}
	if q.Undone != nil {
		c.undone = q.Undone.ID
	}
	return w.keep(c, err)
}

func (w *witness) Reverse(ctx context.Context, q meter.Reversal) (meter.Decision, error) {
	d, err := w.Engine.Reverse(ctx, q)
	q.CheckedPseq = anyCursor
	return w.keep(call{
		account: q.Account, id: q.ID, got: d, model: func(m *metertest.Model) meter.Decision { return m.Reverse(q) },
	}, err)
}

func (w *witness) MoveExpiry(ctx context.Context, q meter.ExpiryMove) (meter.Decision, error) {
	d, err := w.Engine.MoveExpiry(ctx, q)
	q.CheckedPseq = anyCursor
	return w.keep(call{
		account: q.Account, id: q.ID, got: d, model: func(m *metertest.Model) meter.Decision { return m.MoveExpiry(q) },
	}, err)
}

// Reserve books no entry, so its call has no id.
func (w *witness) Reserve(ctx context.Context, q meter.Reserve) (meter.Decision, error) {
	d, err := w.Engine.Reserve(ctx, q)
	return w.keep(call{
		account: q.Account, got: d, model: func(m *metertest.Model) meter.Decision { return m.Reserve(q) },
	}, err)
}

func (w *witness) Commit(ctx context.Context, q meter.Settle) (meter.Decision, error) {
	d, err := w.Engine.Commit(ctx, q)
	return w.keep(call{
		account: q.Account, id: q.ID.ID, got: d, model: func(m *metertest.Model) meter.Decision { return m.Commit(q) },
	}, err)
}

func (w *witness) Release(ctx context.Context, q meter.Settle) (meter.Decision, error) {
	d, err := w.Engine.Release(ctx, q)
	return w.keep(call{
		account: q.Account, id: q.ID.ID, got: d, model: func(m *metertest.Model) meter.Decision { return m.Release(q) },
	}, err)
}

// mirror is the model of one account, as far as the ledger was replayed.
type mirror struct {
	account string
	model   *metertest.Model
	pseq    uint64 // of the last record
}

func newMirror(account string) *mirror {
	m := &mirror{account: account, model: metertest.NewModel(layout, 0, 0)}
	m.model.Load(account, meter.Account{})
	return m
}

// booking is a call with the entries that it booked. A change that two callers bring to Redis in the same millisecond may
// have been booked by either.
type booking struct {
	either  []call
	entries []meter.Entry
}

func (b booking) nowMs() int64 { return b.either[0].got.NowMs }

// follow replays what happened since the last time, in the order of the ledger. Where reserves lie between the entries of
// one millisecond is searched for: there is an order in which the model answers the same, or the answers are wrong.
func (m *mirror) follow(t *testing.T, h *house, calls []call) {
	t.Helper()
	var reserves, changes []call
	for _, c := range calls {
		switch {
		case c.account != m.account:
		case c.id == meter.ID{}:
			reserves = append(reserves, c)
		case c.got.Code == meter.CodeOK:
			changes = append(changes, c)
		}
	}
	slices.SortStableFunc(reserves, func(a, b call) int { return int(a.got.NowMs - b.got.NowMs) })
	s := search{account: m.account}
	s.try(m.model, m.bookings(t, h, changes), reserves)
	require.NotNil(t, s.found, "no order of these calls is the model's; as far as it goes: %s", s.why)
	m.model = s.found
}

// bookings are the account's entries since the last time, each with the call that made it.
func (m *mirror) bookings(t *testing.T, h *house, changes []call) (out []booking) {
	t.Helper()
	var before []meter.Entry // of the same call
	for _, row := range h.query(t, `SELECT pseq, body FROM creditgate.ledger_record WHERE pseq > $1 ORDER BY pseq`, m.pseq) {
		rec, err := meter.UnpackRecord(row[1].([]byte))
		require.NoError(t, err)
		m.pseq = uint64(row[0].(int64))
		for _, e := range rec.Entries {
			if e.Account != m.account {
				continue
			}
			var made []call
			for _, c := range changes {
				if c.got.NowMs == rec.OccurredMs && (c.id == e.ID || c.undone == e.ID) {
					made = append(made, c)
				}
			}
			require.NotEmpty(t, made, "nobody asked for the entry %+v", e)
			if before = append(before, e); made[0].id == e.ID {
				out = append(out, booking{made, before})
				before = nil
			}
		}
	}
	require.Empty(t, before, "half of what a verb books")
	return out
}

// search looks for an order of calls in which the model answers and books what Redis did.
type search struct {
	account string
	found   *metertest.Model
	depth   int
	why     string // what differs where it got farthest
}

// try goes on from a model: either the next entry or a reserve of the same moment comes next.
func (s *search) try(m *metertest.Model, bookings []booking, reserves []call) {
	if len(bookings)+len(reserves) == 0 {
		s.found = m
		return
	}
	now := int64(math.MaxInt64)
	if len(bookings) > 0 {
		now = bookings[0].nowMs()
	}
	if len(reserves) > 0 {
		now = min(now, reserves[0].got.NowMs)
	}
	left := len(bookings) + len(reserves)
	if len(bookings) > 0 && bookings[0].nowMs() == now {
		for _, c := range bookings[0].either {
			if next := s.play(m, c, bookings[0].entries, left); next != nil {
				s.try(next, bookings[1:], reserves)
				break
			}
		}
	}
	for i := 0; i < len(reserves) && reserves[i].got.NowMs == now && s.found == nil; i++ {
		if next := s.play(m, reserves[i], nil, left); next != nil {
			s.try(next, bookings, slices.Delete(slices.Clone(reserves), i, i+1))
		}
	}
}

// play is the model after a call, nil if it does not answer and book the same.
func (s *search) play(m *metertest.Model, c call, booked []meter.Entry, left int) *metertest.Model {
	next := m.Clone()
	next.NowMs = c.got.NowMs
	next.Flushed(next.Pseq)
	had := len(next.Entries())
	want := c.model(next)
	entries := next.Entries()[had:]
	if same := metertest.EqualDecisions(visible(want), visible(c.got)) && slices.EqualFunc(entries, booked, sameEntry); same {
		return next
	}
	if s.why == "" || left < s.depth {
		s.depth = left
		s.why = fmt.Sprintf("%d calls before the end\nmodel: %+v\n  books %+v\nRedis: %+v\n  booked %+v", left-1, visible(want),
			entries, visible(c.got), booked)
	}
	return nil
}

// visible is a decision without what depends on how far the ledger is flushed.
func visible(d meter.Decision) meter.Decision {
	d.Account.Applied, d.Account.PrunedPseq, d.Account.Sum = nil, 0, meter.AvailableSum{}
	return d
}

func sameEntry(a, b meter.Entry) bool {
	return a.Kind == b.Kind && a.Seq == b.Seq && a.Amount == b.Amount && a.Account == b.Account && a.ID == b.ID &&
		a.Units == b.Units && slices.Equal(a.Lines, b.Lines)
}

// requireSame compares the account, as Redis has it, and its grants, as Postgres has them, with the model.
func (m *mirror) requireSame(t *testing.T, h *house, got meter.Account) {
	t.Helper()
	want := m.model.Accounts[m.account]
	require.True(t, slices.Equal(want.Grants, got.Grants), "the grants in Redis: %+v, of the model: %+v", got.Grants, want.Grants)
	require.Equal(t, []any{want.Seq, want.Holds}, []any{got.Seq, got.Holds})
	type state struct{ left, debt meter.Credits }
	grants := map[meter.ID]state{}
	for _, e := range m.model.Entries() {
		for _, l := range e.Lines {
			s := grants[l.Grant]
			grants[l.Grant] = state{s.left + l.Credits(), s.debt + l.Debt}
		}
	}
	for _, g := range want.Grants {
		require.Equal(t, state{g.Available + g.Held, g.Debt}, grants[g.ID], "the model agrees with its own ledger")
	}
	inPostgres := map[meter.ID]state{}
	for _, row := range h.query(t, `SELECT grant_id, granted::bigint - spent::bigint - lapsed::bigint - revoked::bigint, debt::bigint
		FROM creditgate.grant_state WHERE account = $1`, m.account) {
		inPostgres[row[0].([16]byte)] = state{meter.Credits(row[1].(int64)), meter.Credits(row[2].(int64))}
	}
	require.True(t, maps.Equal(grants, inPostgres), "the grants in Postgres: %v, of the model: %v", inPostgres, grants)
}
