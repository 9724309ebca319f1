package metertest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
)

// lived is a partition in which a little of everything happened, with names for what is damaged below.
type lived struct {
	*metertest.Model
	grant, gone meter.ID
	open, done  meter.ReservationID
	late, mark  meter.ReservationID
	key         meter.IdempotencyKey
}

const account = "acme"

func live(t *testing.T) lived {
	t.Helper()
	layout := meter.Layout{Number: 1, Partitions: 1}
	l := lived{
		Model: metertest.NewModel(layout, 0, time.Hour.Milliseconds()), grant: meter.ID{1}, gone: meter.ID{2},
		key: meter.IdempotencyKey{Hash: [16]byte{7}},
	}
	id := func(n byte) meter.ReservationID {
		return layout.NewReservationID(meter.ID{0, 0, 0, 0, 0, 0, n}, account)
	}
	l.open, l.done, l.late, l.mark = id(1), id(2), id(3), id(4)
	ok := func(d meter.Decision) { t.Helper(); require.Equal(t, meter.CodeOK, d.Code) }
	reserve := func(id meter.ReservationID, amount meter.Credits, note meter.Note) {
		ok(l.Reserve(meter.Reserve{ID: id, Account: account, Amount: amount, Lease: time.Second, Note: note}))
	}
	l.Load(account, meter.Account{})
	for _, g := range []meter.Grant{{ID: l.grant, Available: 100}, {ID: l.gone, Available: 5}} {
		g.Bucket, g.ExpiresMs = "monthly", meter.Never
		ok(l.Grant(meter.GrantChange{Account: account, Grant: g}))
	}
	ok(l.Revoke(meter.Revocation{ID: meter.ID{9}, Account: account, Grant: l.gone, Amount: 5}))
	reserve(l.done, 10, meter.Note{Key: &l.key})
	ok(l.Commit(meter.Settle{ID: l.done, Account: account, Amount: 7, Note: meter.Note{Key: &l.key}}))
	reserve(l.late, 10, meter.Note{})
	l.NowMs += 1_000
	ok(l.Expire(l.late, account))
	ok(l.Commit(meter.Settle{ID: l.late, Account: account, Amount: 10}))
	ok(l.Release(meter.Settle{ID: l.mark, Account: account}))
	reserve(l.open, 20, meter.Note{})
	require.NoError(t, metertest.Check(l.State))
	return l
}

// change changes an account without the ledger knowing.
func (l lived) change(how func(*meter.Account, *meter.Grant)) {
	a := l.Accounts[account]
	how(&a, &a.Grants[0])
	l.Accounts[account] = a
}

// last is the newest entry.
func (l lived) last() *meter.Entry { return &l.Ledger[len(l.Ledger)-1].Entries[0] }

// An invariant that never failed proves nothing: each is broken here once.
func TestCheckSeesDamage(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]struct {
		do   func(lived)
		want string
	}{
		"credit appears":           {func(l lived) { l.change(func(_ *meter.Account, g *meter.Grant) { g.Available++ }) }, "I1"},
		"credit moves to held":     {func(l lived) { l.change(func(_ *meter.Account, g *meter.Grant) { g.Available--; g.Held++ }) }, "I5"},
		"debt appears":             {func(l lived) { l.change(func(_ *meter.Account, g *meter.Grant) { g.Debt++ }) }, "I1"},
		"a grant disappears":       {func(l lived) { l.change(func(a *meter.Account, _ *meter.Grant) { a.Grants = nil }) }, "is gone"},
		"a grant comes twice":      {func(l lived) { l.change(func(a *meter.Account, g *meter.Grant) { a.Grants = append(a.Grants, *g) }) }, "order"},
		"a hold is not counted":    {func(l lived) { l.change(func(a *meter.Account, _ *meter.Grant) { a.Holds = 0 }) }, "I5"},
		"seq is behind":            {func(l lived) { l.change(func(a *meter.Account, _ *meter.Grant) { a.Seq-- }) }, "I3"},
		"pseq is behind":           {func(l lived) { l.Pseq-- }, "I6"},
		"a record is missing":      {func(l lived) { l.Ledger[1].Pseq = 9 }, "I6"},
		"time goes back":           {func(l lived) { l.Ledger[len(l.Ledger)-1].OccurredMs = 0 }, "I11"},
		"an entry is not dense":    {func(l lived) { l.last().Seq++ }, "I6"},
		"an entry does not add up": {func(l lived) { l.last().Amount++ }, "I2"},
		"a charge is negative":     {func(l lived) { l.last().Lines[0].Spent = -10 }, "negative"},
		"charged twice":            {func(l lived) { l.last().ID = l.done.ID }, "I4"},
		"an outcome is missing":    {func(l lived) { delete(l.Done, l.done.ID) }, "I4"},
		"an outcome differs": {func(l lived) {
			r := l.Done[l.done.ID]
			r.State = meter.Released
			l.Done[l.done.ID] = r
		}, "I4"},
		"open and done":          {func(l lived) { l.Done[l.open.ID] = l.Open[l.open.ID] }, "both open and done"},
		"a key is charged twice": {func(l lived) { l.last().Note.Key = &l.key }, "I7"},
		"a key tells of a charge that is not there": {func(l lived) {
			for slot, rec := range l.Keys {
				rec.Reservation = l.open.ID
				l.Keys[slot] = rec
			}
		}, "I7"},
		"a grant is entered twice": {func(l lived) { l.Ledger[1].Entries[0].Lines[0].Grant = l.Ledger[0].Entries[0].ID }, "I8"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := live(t)
			damage.do(l)
			require.ErrorContains(t, metertest.Check(l.State), damage.want)
		})
	}
}

// A dump is the same text whenever the same happened: no time and no id of its own shows.
func TestDumpIsStable(t *testing.T) {
	t.Parallel()
	first, second := live(t), live(t)
	require.Equal(t, first.Text(metertest.Format{}), second.Text(metertest.Format{}))
	text := first.Text(metertest.Format{Names: map[meter.ID]string{first.open.ID: "running"}})
	require.Contains(t, text, "held running  acme  amount 0.02  charged 0  available 0.063  lease +1s  settled -\n")
	require.Contains(t, text, "committed #")
}
