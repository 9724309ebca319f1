package meter_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
	"creditgate/meter/redisd"
)

// moved is an engine on b's Redis whose time a test moves. Nothing runs beside it, so that only the test makes it sweep.
func (b *testBundle) moved(clock *meter.Clock) *meter.Engine {
	b.t.Helper()
	e := b.unopened(clock)
	require.NoError(b.t, e.OpenNow(b.t.Context()))
	return e
}

func (b *testBundle) unopened(clock *meter.Clock) *meter.Engine {
	b.t.Helper()
	e, err := meter.New(meter.Options{
		RedisURL: b.server.URL(), Layout: b.layout, Book: b.book, Rebuild: b.book, Log: zerolog.Nop(),
		Metrics: prometheus.NewRegistry(), Clock: clock,
	})
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = e.Redis().Close() })
	return e
}

// movable is a Redis whose only engine so far has a clock that the test moves.
func movable(t *testing.T) (b *testBundle, clock *meter.Clock) {
	t.Helper()
	clock = new(meter.Clock)
	b = &testBundle{t: t, server: redisd.Test(t), layout: meter.Layout{Number: 1, Partitions: 4}}
	b.book = metertest.NewBook(b.layout)
	b.engine = b.moved(clock)
	return b, clock
}

const day = 24 * time.Hour

// gift grants a credit that ends a month from now.
func (b *testBundle) gift(e *meter.Engine, account string) {
	b.t.Helper()
	g := meter.Grant{
		ID: meter.NewID(time.Now()), Bucket: "promo", Available: meter.Credit, ExpiresMs: time.Now().Add(30 * day).UnixMilli(),
		CreatedMs: time.Now().UnixMilli(),
	}
	b.book.AddAccount(account)
	b.book.AddLot(g)
	d, err := e.Grant(b.t.Context(), meter.GrantChange{Account: account, Grant: g})
	require.NoError(b.t, err)
	require.Equal(b.t, meter.CodeOK, d.Code)
	b.flush() // what ends is asked of the book
}

func TestAGatewayThatHasNotLearnedTheTimeIsRefused(t *testing.T) {
	t.Parallel()
	b, ahead := movable(t)
	behind := new(meter.Clock)
	a, other := b.engine, b.moved(behind)
	b.gift(a, "acme")
	ahead.Set(10 * day)
	require.NoError(t, a.SweepNow(t.Context()), "every partition has seen the time")

	ask := meter.Reserve{Account: "acme", Amount: meter.Credit, Lease: lease}
	for _, offset := range []time.Duration{0, 10*day - 2*time.Minute} { // far behind, and nearly there
		behind.Set(offset)
		ask.ID = other.NewReservationID("acme")
		_, err := other.Reserve(t.Context(), ask)
		require.ErrorIs(t, err, meter.ErrUnavailable, "%s", offset)
		require.ErrorContains(t, err, "clock")
		require.Error(t, other.SweepNow(t.Context()))
	}
	behind.Set(10 * day)
	ask.ID = other.NewReservationID("acme")
	d, err := other.Reserve(t.Context(), ask)
	require.NoError(t, err)
	require.Equal(t, meter.CodeOK, d.Code)
}

func TestNothingLapsesForOneThatIsBehind(t *testing.T) {
	t.Parallel()
	b, ahead := movable(t)
	a, other := b.engine, b.moved(nil)
	b.gift(a, "acme")
	ahead.Set(29 * day)
	require.NoError(t, a.SweepNow(t.Context()))
	require.Error(t, other.SweepNow(t.Context()))
	d, err := a.Balance(t.Context(), "acme")
	require.NoError(t, err)
	require.Equal(t, meter.Credit, d.Account.Available(d.NowMs))
	require.InDelta(t, ahead.Now().UnixMilli(), d.NowMs, float64(time.Minute.Milliseconds()))
	ahead.Set(31 * day)
	require.NoError(t, a.SweepNow(t.Context()))
	d, err = a.Balance(t.Context(), "acme")
	require.NoError(t, err)
	require.Empty(t, d.Account.Grants)
}

// SweepNow brings what Redis has not loaded, and so has more to do than one round.
func TestSweepNowLoadsWhatItNeeds(t *testing.T) {
	t.Parallel()
	b, clock := movable(t)
	e := b.engine
	b.gift(e, "acme")
	keys := b.layout.Keys(b.layout.PartitionOf("acme"))
	require.NoError(t, b.raw().Del(t.Context(), keys.Account("acme")).Err())
	clock.Set(31 * day)
	require.NoError(t, e.SweepNow(t.Context()))
	b.flush()
	entries := b.book.Entries()
	require.Equal(t, meter.KindLapse, entries[len(entries)-1].Kind)
}

// Ten years are no longer than a moment: what is there is looked at, not the time that passed.
func TestTenYearsDropOutcomesAndKeysAtOnce(t *testing.T) {
	t.Parallel()
	b, clock := movable(t)
	e := b.engine
	b.gift(e, "acme")
	id := e.NewReservationID("acme")
	note := meter.Note{Operation: "apply", Key: &meter.IdempotencyKey{Hash: [16]byte{1}}}
	_, err := e.Reserve(t.Context(), meter.Reserve{ID: id, Account: "acme", Amount: 1, Lease: lease, Note: note})
	require.NoError(t, err)
	_, err = e.Commit(t.Context(), meter.Settle{ID: id, Account: "acme", Amount: 1, Reserved: 1, Note: note})
	require.NoError(t, err)
	held := e.NewReservationID("acme")
	_, err = e.Reserve(t.Context(), meter.Reserve{ID: held, Account: "acme", Amount: 1, Lease: lease})
	require.NoError(t, err)
	b.flush()

	clock.Set(3652 * day)
	require.NoError(t, e.SweepNow(t.Context()))
	b.flush()
	clock.Set(3653 * day) // the lease that ended then has an outcome too
	require.NoError(t, e.SweepNow(t.Context()))
	p := b.layout.PartitionOf("acme")
	state, err := metertest.Read(t.Context(), b.raw(), b.layout, p)
	require.NoError(t, err)
	require.Empty(t, state.Open)
	require.Empty(t, state.Done)
	require.Empty(t, state.Keys)
	require.Empty(t, state.Slots)

	late, err := e.Reserve(t.Context(), meter.Reserve{ID: id, Account: "acme", Amount: 1, Lease: lease, Note: note})
	require.NoError(t, err)
	require.Equal(t, meter.CodeStale, late.Code, "an id of ten years ago")
	d, err := e.Reservation(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, meter.Committed, d.Reservation.State, "Postgres knows how it ended")
}

func TestAMovedPartitionIsOpenedAgain(t *testing.T) {
	t.Parallel()
	b, clock := movable(t)
	e := b.engine
	b.gift(e, "acme")
	clock.Set(10 * day)
	require.NoError(t, e.SweepNow(t.Context()))
	for p := range b.layout.Partitions { // as after a restart of Redis
		require.NoError(t, metertest.EditMeta(t.Context(), b.raw(), b.layout.Keys(p), func(m *meter.Meta) { m.Incarnation = "0" }))
	}
	require.ErrorContains(t, b.unopened(nil).OpenNow(t.Context()), "a clock was ahead")
	require.NoError(t, e.OpenNow(t.Context()))
	d, err := e.Balance(t.Context(), "acme")
	require.NoError(t, err)
	require.Equal(t, meter.Credit, d.Account.Available(d.NowMs))
	require.InDelta(t, clock.Now().UnixMilli(), d.NowMs, float64(time.Minute.Milliseconds()))
}
