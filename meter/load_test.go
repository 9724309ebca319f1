package meter_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// loading deletes an account and returns when a first caller waits for its load; giveUp ends that caller.
func loading(t *testing.T) (book *hookBook, e *meter.Engine, giveUp func()) {
	t.Helper()
	b, book := setupHooked(t)
	b.account("acme", meter.Credit)
	b.flush()
	started := make(chan struct{}, 1000)
	book.onAccount = func(string) {
		select {
		case started <- struct{}{}:
		default:
		}
	}
	e = b.startWith(b.server.URL(), book, nil)
	b.eventuallyOpen(e)
	book.behind.Store(true)
	keys := b.layout.Keys(b.layout.PartitionOf("acme"))
	require.NoError(t, b.raw().Del(t.Context(), keys.Account("acme")).Err())
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan struct{})
	go func() { defer close(first); _, _ = e.Balance(ctx, "acme") }()
	t.Cleanup(func() { cancel(); <-first })
	<-started
	return book, e, func() { cancel(); <-first }
}

func TestLoadKeepsTheCallersDeadline(t *testing.T) {
	t.Parallel()
	_, e, _ := loading(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	within(t, time.Second, "balance with a deadline of 50 ms", func() {
		_, err := e.Balance(ctx, "acme")
		require.ErrorIs(t, err, meter.ErrUnavailable)
		require.ErrorIs(t, err, meter.ErrNotSent)
	})
}

func TestLoadOutlivesTheCallerWhoBeganIt(t *testing.T) {
	t.Parallel()
	book, e, giveUp := loading(t)
	second := make(chan error, 1)
	go func() { _, err := e.Balance(t.Context(), "acme"); second <- err }()
	giveUp()
	book.behind.Store(false)
	require.NoError(t, <-second)
}

// What holds credit must be counted: a load that skipped a hold that it cannot read would make it available again.
func TestLoadRefusesHoldsItCannotRead(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", meter.Credit)
	b.flush()
	c, keys := b.raw(), b.layout.Keys(b.layout.PartitionOf("acme"))
	require.NoError(t, c.HSet(t.Context(), keys.Open(), string(make([]byte, 16)), "\x09 not a reservation").Err())
	require.NoError(t, c.Del(t.Context(), keys.Account("acme")).Err())
	_, err := b.engine.Balance(t.Context(), "acme")
	require.ErrorIs(t, err, meter.ErrPacked)
}

// A key may have been charged twice in a day, under two fingerprints or after an outage: the newest is the one told.
func TestNewestKeyRecordIsLoaded(t *testing.T) {
	t.Parallel()
	for _, order := range [][]int{{0, 1}, {1, 0}} {
		r := newRules(t)
		requests := []meter.Reserve{r.request(r.baseMs, 1), r.request(r.baseMs, 1)}
		for _, i := range order {
			r.ok(r.engines[0].RunOp(r.ctx, meter.LoadKeyOp(requests[i].Note.Key, meter.Reservation{
				ID: requests[i].ID, State: meter.Committed, Account: payer, Amount: 10, Charged: 10,
				SettledMs: r.baseMs + int64(i),
			})))
		}
		d := r.told(meter.CodeKeyReplay)(r.engines[0].Reserve(r.ctx, r.request(r.baseMs, 1)))
		require.Equal(t, requests[1].ID, d.Reservation.ID)
	}
}
