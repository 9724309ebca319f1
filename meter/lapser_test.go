package meter_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
	"creditgate/meter/redisd"
)

// asked counts calls of the scripts.
type asked struct{ calls atomic.Int64 }

func (a *asked) DialHook(next redis.DialHook) redis.DialHook { return next }

func (a *asked) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "fcall" {
			a.calls.Add(1)
		}
		return next(ctx, cmd)
	}
}

func (a *asked) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// lapseBundle is a Redis and an engine whose rounds a test calls, on a book that counts what it is asked.
type lapseBundle struct {
	*testBundle
	clock   *meter.Clock
	hooked  *hookBook
	queries int
	asked   asked
}

func newLapseBundle(t *testing.T) *lapseBundle {
	t.Helper()
	b := &lapseBundle{clock: new(meter.Clock)}
	b.testBundle = &testBundle{t: t, server: redisd.Test(t), layout: meter.Layout{Number: 1, Partitions: 4}}
	b.book = metertest.NewBook(b.layout)
	b.hooked = &hookBook{Book: b.book, onLapses: func() ([]meter.Lapse, error) { b.queries++; return nil, nil }}
	var err error
	b.engine, err = meter.New(meter.Options{
		RedisURL: b.server.URL(), Layout: b.layout, Book: b.hooked, Rebuild: b.book, Log: zerolog.Nop(),
		Metrics: prometheus.NewRegistry(), Clock: b.clock,
	})
	require.NoError(t, err)
	b.engine.Redis().AddHook(&b.asked)
	t.Cleanup(func() { _ = b.engine.Redis().Close() })
	require.NoError(t, b.engine.OpenNow(t.Context()))
	return b
}

// ends moves the clock behind the end of what gift gave.
func (b *lapseBundle) ends() { b.clock.Set(31 * day) }

// round is one round, and how many calls it made.
func (b *lapseBundle) round(l meter.Lapser) (found int, calls int64) {
	b.t.Helper()
	before := b.asked.calls.Load()
	found, err := l.Round(b.t.Context())
	require.NoError(b.t, err)
	return found, b.asked.calls.Load() - before
}

// lapses counts the entries in the book.
func (b *lapseBundle) lapses() (n int) {
	for _, e := range b.book.Entries() {
		if e.Kind == meter.KindLapse {
			n++
		}
	}
	return n
}

func TestNothingDueCostsOneQuery(t *testing.T) {
	t.Parallel()
	b := newLapseBundle(t)
	b.gift(b.engine, "acme")
	l := b.engine.NewLapser()
	for n := range 50 {
		found, calls := b.round(l)
		require.Zero(t, found)
		require.Zero(t, calls)
		require.Equal(t, n+1, b.queries)
	}
}

// What is on its way to Postgres is due there, however long that takes. It is looked at ever more seldom, and not sent.
func TestALapseIsSentOnce(t *testing.T) {
	t.Parallel()
	b := newLapseBundle(t)
	b.gift(b.engine, "acme")
	b.ends()
	l := b.engine.NewLapser()
	found, calls := b.round(l)
	require.Equal(t, 1, found)
	require.Equal(t, int64(1), calls)
	looked := 0
	for range 100 {
		found, calls := b.round(l)
		require.Zero(t, calls)
		looked += found
	}
	require.Positive(t, looked)
	require.LessOrEqual(t, looked, 10, "after 1, 2, 4, 8, 16, 32, 32 rounds …")
	b.flush()
	for range 32 {
		b.round(l)
	}
	found, calls = b.round(l)
	require.Zero(t, found)
	require.Zero(t, calls)
	require.Equal(t, 1, b.lapses())
}

// What becomes due meanwhile does not wait for that.
func TestWhatIsHeldDelaysNothing(t *testing.T) {
	t.Parallel()
	b := newLapseBundle(t)
	b.gift(b.engine, "acme")
	held := b.reserve("acme", meter.Credit)
	b.ends()
	l := b.engine.NewLapser()
	sent := int64(0)
	for range 100 {
		_, calls := b.round(l)
		sent += calls
	}
	require.LessOrEqual(t, sent, int64(10))

	g := meter.Grant{
		ID: meter.NewID(time.Now()), Bucket: "promo", Available: meter.Credit, ExpiresMs: b.clock.Now().Add(day).UnixMilli(),
	}
	b.book.AddAccount("other")
	b.book.AddLot(g)
	_, err := b.engine.Grant(t.Context(), meter.GrantChange{Account: "other", Grant: g})
	require.NoError(t, err)
	b.flush()
	b.clock.Set(33 * day)
	b.round(l)
	d, err := b.engine.Balance(t.Context(), "other")
	require.NoError(t, err)
	require.Empty(t, d.Account.Grants, "in the first round")

	_, err = b.engine.Release(t.Context(), meter.Settle{ID: held.Reservation.ID, Account: "acme"})
	require.NoError(t, err)
	b.flush()
	for range 33 {
		b.round(l)
	}
	found, calls := b.round(l)
	require.Zero(t, found, "what came back has lapsed with its release")
	require.Zero(t, calls)
	require.Equal(t, 1, b.lapses())
}

// A lapse that Postgres has not yet does not hold up the next one of its partition.
func TestALapseDoesNotHoldUpTheNext(t *testing.T) {
	t.Parallel()
	b := newLapseBundle(t)
	b.gift(b.engine, "acme")
	g := meter.Grant{
		ID: meter.NewID(time.Now()), Bucket: "promo", Available: meter.Credit, ExpiresMs: time.Now().Add(32 * day).UnixMilli(),
	}
	other := b.neighbour("acme")
	b.book.AddAccount(other)
	b.book.AddLot(g)
	_, err := b.engine.Grant(t.Context(), meter.GrantChange{Account: other, Grant: g})
	require.NoError(t, err)
	b.flush()
	b.ends()
	l := b.engine.NewLapser()
	_, calls := b.round(l)
	require.Equal(t, int64(1), calls)
	b.clock.Set(33 * day)
	_, calls = b.round(l)
	require.Equal(t, int64(1), calls)
	b.flush()
	require.Equal(t, 2, b.lapses())
}

// A gateway that has no partition open leaves the lock to one that has.
func TestAGatewayWithNothingOpenBooksNoLapses(t *testing.T) {
	t.Parallel()
	b := &testBundle{t: t, server: redisd.Test(t), layout: meter.Layout{Number: 1, Partitions: 1}}
	b.book = metertest.NewBook(b.layout)
	claimed := make(chan uint16, 1)
	stuck := &hookBook{Book: b.book, onClaim: func(p uint16) {
		claimed <- p
		<-t.Context().Done()
	}}
	b.startWith(b.server.URL(), stuck, nil)
	<-claimed
	b.engine = b.startWith(b.server.URL(), &hookBook{Book: b.book}, nil)
	b.eventuallyOpen(b.engine)
	g := meter.Grant{
		ID: meter.NewID(time.Now()), Bucket: "promo", Available: meter.Credit, ExpiresMs: time.Now().Add(time.Second).UnixMilli(),
	}
	b.book.AddAccount("acme")
	b.book.AddLot(g)
	_, err := b.engine.Grant(t.Context(), meter.GrantChange{Account: "acme", Grant: g})
	require.NoError(t, err)
	b.flush()
	require.Eventually(t, func() bool {
		d, err := b.engine.Balance(t.Context(), "acme")
		return err == nil && len(d.Account.Grants) == 0
	}, patience, 20*time.Millisecond)
}

// A grant whose end was moved back, or that Postgres learns of late, stands before what was looked at already.
func TestLateNewsOfAnEnd(t *testing.T) {
	t.Parallel()
	b := newLapseBundle(t)
	b.gift(b.engine, "acme")
	g := meter.Grant{
		ID: meter.NewID(time.Now()), Bucket: "promo", Available: meter.Credit, ExpiresMs: time.Now().Add(10 * day).UnixMilli(),
	}
	b.book.AddAccount("other")
	b.book.AddLot(g)
	_, err := b.engine.Grant(t.Context(), meter.GrantChange{Account: "other", Grant: g})
	require.NoError(t, err)
	b.ends()
	l := b.engine.NewLapser()
	b.round(l)
	b.flush()
	for range 4 {
		b.round(l)
	}
	d, err := b.engine.Balance(t.Context(), "other")
	require.NoError(t, err)
	require.Empty(t, d.Account.Grants)
}

// A move that the flusher has not brought to Postgres yet wins: the script looks at the account.
func TestAMovedEndDoesNotLapse(t *testing.T) {
	t.Parallel()
	b := newLapseBundle(t)
	b.gift(b.engine, "acme")
	d, err := b.engine.Balance(t.Context(), "acme")
	require.NoError(t, err)
	move := meter.ExpiryMove{
		ID: meter.NewID(time.Now()), Account: "acme", Grant: d.Account.Grants[0].ID, ExpiresMs: time.Now().Add(60 * day).UnixMilli(),
		CheckedPseq: 1,
	}
	_, err = b.engine.MoveExpiry(t.Context(), move)
	require.NoError(t, err)
	b.ends()
	l := b.engine.NewLapser()
	found, calls := b.round(l)
	require.Equal(t, 1, found)
	require.Equal(t, int64(1), calls)
	available, _ := b.balance("acme")
	require.Equal(t, meter.Credit, available)
}

// As many bad pairs as are read at a time do not hide the good one behind them.
func TestBadLapsesHideNone(t *testing.T) {
	t.Parallel()
	b := newLapseBundle(t)
	b.gift(b.engine, "acme")
	ill := b.neighbour("acme")
	require.NoError(t, b.raw().Set(t.Context(), b.layout.Keys(b.layout.PartitionOf(ill)).Account(ill), "\x09 not an account", 0).Err())
	b.ends()
	bad := []meter.Lapse{{Account: b.neighbour("acme", ill), At: time.UnixMilli(1)}} // of nobody
	for range 999 {
		bad = append(bad, meter.Lapse{Account: ill, Grant: meter.NewID(time.Now()), At: time.UnixMilli(1)})
	}
	b.hooked.onLapses = func() ([]meter.Lapse, error) { return bad, nil }
	_, err := b.engine.NewLapser().Round(t.Context())
	require.NoError(t, err)
	require.InDelta(t, 1000, b.engine.SweepSkipped("lapse"), 0)
	d, err := b.engine.Balance(t.Context(), "acme")
	require.NoError(t, err)
	require.Empty(t, d.Account.Grants)
}

// An account that Redis does not have is loaded, with what has ended, and that lapses in the same round.
func TestALapseLoadsItsAccount(t *testing.T) {
	t.Parallel()
	b := newLapseBundle(t)
	b.gift(b.engine, "acme")
	require.NoError(t, b.raw().Del(t.Context(), b.layout.Keys(b.layout.PartitionOf("acme")).Account("acme")).Err())
	b.ends()
	b.round(b.engine.NewLapser())
	b.flush()
	require.Equal(t, 1, b.lapses())
}

// A book that is away makes lapses late. Nothing is lost, and nothing that has ended is spent meanwhile.
func TestLapsesWaitForTheBook(t *testing.T) {
	t.Parallel()
	b := newLapseBundle(t)
	b.gift(b.engine, "acme")
	b.ends()
	b.hooked.onLapses = func() ([]meter.Lapse, error) { return nil, errors.New("away") }
	l := b.engine.NewLapser()
	for range 3 {
		_, err := l.Round(t.Context())
		require.ErrorContains(t, err, "away")
	}
	require.Equal(t, meter.CodeInsufficient, b.reserve("acme", 1).Code)
	b.hooked.onLapses = nil
	for range 8 {
		b.round(l)
	}
	b.flush()
	require.Equal(t, 1, b.lapses())
}

// Two gateways at once, and one of them again before Postgres knows: one entry.
func TestLapsesOfTwoGateways(t *testing.T) {
	t.Parallel()
	b := newLapseBundle(t)
	b.gift(b.engine, "acme")
	other := b.moved(b.clock)
	b.ends()
	for range 2 {
		done := make(chan error, 2)
		for _, e := range []*meter.Engine{b.engine, other} {
			go func() { done <- e.LapseDue(t.Context()) }()
		}
		require.NoError(t, errors.Join(<-done, <-done))
	}
	b.flush()
	require.Equal(t, 1, b.lapses())
}
