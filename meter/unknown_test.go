package meter_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
)

// A panic on the flyer's goroutine (which the gateway's handler recovers) leaves `flying` set for ever.
func TestPanicInAFlightIsNotTheEnd(t *testing.T) {
	t.Parallel()
	b, book := setupHooked(t)
	var armed atomic.Bool
	e := b.startWith(b.server.URL(), book, func() time.Time {
		if armed.CompareAndSwap(true, false) {
			panic("any bug while a call is built")
		}
		return time.Now()
	})
	b.account("acme", meter.Credit)
	b.eventuallyOpen(e)
	id := e.NewReservationID("acme")
	func() {
		defer func() { _ = recover() }()
		armed.Store(true)
		_, _ = e.Extend(t.Context(), id, time.Minute)
	}()
	within(t, 6*time.Second, "the next verb", func() { _, _ = e.Extend(t.Context(), id, time.Minute) })
}

// DESIGN §4.8: an attempt of unknown outcome, a final answer that is not held: a release has to follow.
func TestDelayedReserveAfterADenialIsReleased(t *testing.T) {
	t.Parallel()
	b, book := setupHooked(t)
	b.account("acme", meter.Credit)
	id := b.engine.NewReservationID("acme")
	deliver := make(chan struct{})
	p := &proxy{mark: id.ID[:], first: func(chunk []byte, up net.Conn) {
		go func() {
			<-deliver
			_, _ = up.Write(chunk)
		}()
	}}
	e := b.startWith(startProxy(t, b.server.URL(), p), book, nil)
	b.eventuallyOpen(e)
	blocker := b.reserve("acme", meter.Credit)
	d, err := e.Reserve(t.Context(), meter.Reserve{ID: id, Account: "acme", Amount: meter.Credit, Lease: time.Hour})
	require.NoError(t, err)
	require.Equal(t, meter.CodeInsufficient, d.Code, "the first attempt is in a socket, the second was denied")
	_, err = b.engine.Release(t.Context(), meter.Settle{ID: blocker.Reservation.ID, Account: "acme"})
	require.NoError(t, err)
	close(deliver)
	<-p.replied
	require.Eventually(t, func() bool { _, held := b.balance("acme"); return held == 0 }, 5*time.Second, 50*time.Millisecond,
		"nobody knows of this hold; its lease is an hour")
}

// Attempt 1 ran and its reply was lost; attempt 2 is refused by the fence; opening takes longer than the budget.
func TestNotSentIsOnlySaidWhenTrue(t *testing.T) {
	t.Parallel()
	b, book := setupHooked(t)
	b.account("acme", meter.Credit)
	keys, c := b.layout.Keys(b.layout.PartitionOf("acme")), b.raw()
	id := b.engine.NewReservationID("acme")
	p := &proxy{mark: id.ID[:]}
	p.first = func(chunk []byte, up net.Conn) {
		_, _ = up.Write(chunk)
		<-p.replied
		// It stands for any refusal that lasts longer than the budget: a restart while Postgres is away, a fork, torn.
		_ = metertest.EditMeta(context.Background(), c, keys, func(m *meter.Meta) { m.Torn = true })
	}
	e := b.startWith(startProxy(t, b.server.URL(), p), book, nil)
	b.eventuallyOpen(e)
	_, err := e.Reserve(t.Context(), meter.Reserve{ID: id, Account: "acme", Amount: meter.Credit, Lease: time.Hour})
	require.ErrorIs(t, err, meter.ErrUnavailable)
	held, herr := c.HExists(t.Context(), keys.Open(), string(id.ID[:])).Result()
	require.NoError(t, herr)
	require.True(t, held, "the first attempt did happen")
	require.NotErrorIs(t, err, meter.ErrNotSent, "and so no release follows")
}
