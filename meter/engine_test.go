package meter_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
	"creditgate/meter/redisd"
)

const lease = 10 * time.Second

// bench is one engine on one private Redis, with a book that a test flushes by hand.
type testBundle struct {
	t      testing.TB
	server *redisd.Server
	layout meter.Layout
	book   *metertest.Book
	engine *meter.Engine
}

func setup(tb testing.TB) *testBundle {
	tb.Helper()
	b := &testBundle{t: tb, server: redisd.Test(tb), layout: meter.Layout{Number: 1, Partitions: 4}}
	b.book = metertest.NewBook(b.layout)
	b.engine = b.startEngine()
	return b
}

// startEngine runs one more engine on the same Redis and book.
func (b *testBundle) startEngine() *meter.Engine {
	b.t.Helper()
	return runEngine(b.t, b.server.URL(), b.layout, b.book)
}

// runEngine runs an engine until the test ends.
func runEngine(tb testing.TB, redisURL string, layout meter.Layout, book *metertest.Book) *meter.Engine {
	tb.Helper()
	e, err := meter.New(meter.Options{
		RedisURL: redisURL, Layout: layout, Book: book, Rebuild: book,
		Log: zerolog.New(zerolog.NewTestWriter(tb)).Level(zerolog.ErrorLevel), Metrics: prometheus.NewRegistry(),
	})
	require.NoError(tb, err)
	ctx, cancel := context.WithCancel(tb.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	tb.Cleanup(func() { cancel(); <-done })
	return e
}

// account makes an account with one grant for each amount, drained in that order.
func (b *testBundle) account(name string, amounts ...meter.Credits) []meter.ID {
	b.t.Helper()
	b.book.AddAccount(name)
	var ids []meter.ID
	for i, amount := range amounts {
		g := meter.Grant{
			ID: meter.NewID(time.Now()), Bucket: "monthly", Rank: uint8(i), Available: amount, ExpiresMs: meter.Never,
			CreatedMs: time.Now().UnixMilli(),
		}
		b.book.AddLot(g)
		at, err := b.book.Cursor(b.t.Context(), b.layout.PartitionOf(name))
		require.NoError(b.t, err)
		d, err := b.engine.Grant(b.t.Context(), meter.GrantChange{Account: name, Grant: g, CheckedPseq: at.Pseq})
		require.NoError(b.t, err)
		require.Equal(b.t, meter.CodeOK, d.Code)
		ids = append(ids, g.ID)
	}
	return ids
}

func (b *testBundle) reserve(account string, amount meter.Credits) meter.Decision {
	b.t.Helper()
	d, err := b.engine.Reserve(b.t.Context(), meter.Reserve{
		ID: b.engine.NewReservationID(account), Account: account, Amount: amount, Lease: lease,
	})
	require.NoError(b.t, err)
	return d
}

// flush folds every record into the book and tells Redis so.
func (b *testBundle) flush() {
	b.t.Helper()
	for p := range b.layout.Partitions {
		require.NoError(b.t, b.flushPartition(b.t.Context(), p, 0))
	}
}

func (b *testBundle) flushPartition(ctx context.Context, p uint16, wait time.Duration) error {
	at, err := b.book.Cursor(ctx, p)
	if err != nil {
		return err
	}
	records, _, err := b.engine.Ledger().Read(ctx, p, at.Position, 10_000, wait)
	if err != nil || len(records.List) == 0 {
		return err
	}
	if err := b.book.Fold(records.List); err != nil {
		return err
	}
	return b.engine.Ledger().Flushed(ctx, p, records.List[len(records.List)-1].Position, meter.Position{})
}

// keepFlushing flushes until the test ends, as a gateway does.
func (b *testBundle) keepFlushing() {
	ctx, cancel := context.WithCancel(b.t.Context())
	var wg sync.WaitGroup
	b.t.Cleanup(func() { cancel(); wg.Wait() })
	for p := range b.layout.Partitions {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := b.flushPartition(ctx, p, time.Second); err != nil && ctx.Err() == nil {
					b.t.Logf("flush: %v", err)
				}
			}
		})
	}
}

func (b *testBundle) balance(account string) (available, held meter.Credits) {
	b.t.Helper()
	d, err := b.engine.Balance(b.t.Context(), account)
	require.NoError(b.t, err)
	require.Equal(b.t, meter.CodeOK, d.Code)
	return d.Account.Available(d.NowMs), d.Account.Held()
}

func TestReserveCommitRelease(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.account("acme", 2*meter.Credit, 5*meter.Credit)

	d := b.reserve("acme", 3*meter.Credit)
	require.Equal(t, meter.CodeOK, d.Code)
	require.Equal(t, []meter.Draw{{Grant: ids[0], Amount: 2000}, {Grant: ids[1], Amount: 1000}}, d.Reservation.Draws)
	available, held := b.balance("acme")
	require.Equal(t, [2]meter.Credits{4000, 3000}, [2]meter.Credits{available, held})

	settle := meter.Settle{ID: d.Reservation.ID, Account: "acme", Amount: 2 * meter.Credit, Units: 2}
	c, err := b.engine.Commit(t.Context(), settle)
	require.NoError(t, err)
	require.Equal(t, meter.CodeOK, c.Code)
	require.Equal(t, meter.Committed, c.Reservation.State)
	require.Equal(t, meter.Credits(2000), c.Reservation.Charged)
	require.Equal(t, meter.Credits(5000), c.Reservation.Available)

	again, err := b.engine.Commit(t.Context(), settle)
	require.NoError(t, err)
	require.Equal(t, c.Reservation, again.Reservation)
	settle.Amount = meter.Credit
	other, err := b.engine.Commit(t.Context(), settle)
	require.NoError(t, err)
	require.Equal(t, meter.CodeConflict, other.Code)

	short := b.reserve("acme", 6*meter.Credit)
	require.Equal(t, meter.CodeInsufficient, short.Code)
	require.Equal(t, meter.Credits(5000), short.Account.Available(short.NowMs))

	b.flush()
	entries := b.book.Entries()
	require.Len(t, entries, 3)
	require.Equal(t, meter.KindCommit, entries[2].Kind)
	require.Equal(t, uint32(2), entries[2].Units)
}

// A brief answer says what a full one says of state and amounts; a denial is never brief.
func TestBriefAnswers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 5*meter.Credit)
	ask := meter.Reserve{
		ID: b.engine.NewReservationID("acme"), Account: "acme", Amount: 3 * meter.Credit, Lease: lease,
		Note: meter.Note{Operation: "generate"},
	}
	full, err := b.engine.Reserve(t.Context(), ask)
	require.NoError(t, err)
	ask.Brief = true
	brief, err := b.engine.Reserve(t.Context(), ask) // a repeat: the same reservation
	require.NoError(t, err)
	want := full.Reservation
	want.Note, want.Draws = meter.Note{}, nil
	require.Equal(t, want, brief.Reservation)

	settle := meter.Settle{ID: ask.ID, Account: "acme", Amount: 2 * meter.Credit, Units: 2, Brief: true}
	brief, err = b.engine.Commit(t.Context(), settle)
	require.NoError(t, err)
	require.Equal(t, meter.Committed, brief.Reservation.State)
	require.Equal(t, [3]meter.Credits{3000, 2000, 3000},
		[3]meter.Credits{brief.Reservation.Amount, brief.Reservation.Charged, brief.Reservation.Available})
	settle.Amount = meter.Credit
	conflict, err := b.engine.Commit(t.Context(), settle)
	require.NoError(t, err)
	require.Equal(t, meter.CodeConflict, conflict.Code)
	require.Len(t, conflict.Reservation.Draws, 1)
}
