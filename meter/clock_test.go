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

// A clock that was wrong once stays in last_ms, and the partition's clock never falls behind it.
func TestClockAheadLapsesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.book.AddAccount("acme")
	g := meter.Grant{
		ID: meter.NewID(time.Now()), Bucket: "promo", Available: meter.Credit,
		ExpiresMs: time.Now().Add(24 * time.Hour).UnixMilli(),
	}
	b.book.AddLot(g)
	_, err := b.engine.Grant(t.Context(), meter.GrantChange{Account: "acme", Grant: g})
	require.NoError(t, err)
	c, keys := b.raw(), b.layout.Keys(b.layout.PartitionOf("acme"))
	ahead := time.Now().Add(48 * time.Hour).UnixMilli()
	require.NoError(t, metertest.EditMeta(t.Context(), c, keys, func(m *meter.Meta) { m.LastMs = ahead }))
	ask := meter.Reserve{ID: b.engine.NewReservationID("acme"), Account: "acme", Amount: meter.Credit, Lease: lease}
	_, err = b.engine.Reserve(t.Context(), ask)
	require.ErrorIs(t, err, meter.ErrUnavailable)
	require.ErrorContains(t, err, "clock")
	require.NoError(t, metertest.EditMeta(t.Context(), c, keys, func(m *meter.Meta) {
		require.Equal(t, ahead, m.LastMs)
		m.LastMs = 0
	}))
	require.Eventually(t, func() bool {
		d, err := b.engine.Reserve(t.Context(), ask)
		return err == nil && d.Code == meter.CodeOK
	}, patience, 20*time.Millisecond, "a grant that ends tomorrow")
}

// Opening writes the clock down, so it minds it too.
func TestOpeningRefusesAWrongClock(t *testing.T) {
	t.Parallel()
	server, layout := redisd.Test(t), meter.Layout{Number: 1, Partitions: 1}
	book := metertest.NewBook(layout)
	for _, off := range []time.Duration{-2 * time.Minute, 2 * time.Minute} {
		e, err := meter.New(meter.Options{
			RedisURL: server.URL(), Layout: layout, Book: book, Rebuild: book, Log: zerolog.Nop(),
			Metrics: prometheus.NewRegistry(), Now: func() time.Time { return time.Now().Add(off) },
		})
		require.NoError(t, err)
		require.ErrorContains(t, e.OpenNow(t.Context()), "the clocks differ")
		require.Zero(t, e.Redis().Exists(t.Context(), layout.Keys(0).Meta()).Val())
		require.NoError(t, e.Redis().Close())
	}
}
