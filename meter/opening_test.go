package meter_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
)

// A failover to a replica that missed the last opening, or a restored backup: meta has an older epoch and another
// incarnation. shut ignores the refusal, so the partition stays "open" and run never looks at its context.
func TestOlderEpochInRedisIsNoticed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", meter.Credit)
	c, keys := b.raw(), b.layout.Keys(b.layout.PartitionOf("acme"))
	require.NoError(t, metertest.EditMeta(t.Context(), c, keys, func(m *meter.Meta) { m.Epoch, m.Incarnation = m.Epoch-1, "abc" }))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	within(t, 10*time.Second, "balance with a deadline of 2 s", func() { _, _ = b.engine.Balance(ctx, "acme") })
}

// Rebuilt, then restarted before anything was flushed: the record at the cursor is not in the (new) stream.
func TestRebuiltThenRestarted(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 3*meter.Credit)
	b.flush()
	require.NoError(t, b.raw().FlushAll(t.Context()).Err())
	available, _ := b.balance("acme")
	require.Equal(t, 3*meter.Credit, available, "rebuilt")
	require.NoError(t, b.server.Kill())
	require.NoError(t, b.server.Restart(t.Context()))
	require.Eventually(t, func() bool {
		_, err := b.engine.Balance(t.Context(), "acme")
		t.Logf("%v %+v", err, b.engine.Ready()[b.layout.PartitionOf("acme")])
		return err == nil
	}, patience, 20*time.Millisecond)
}

// Two gateways, one empty Redis, a rebuild that takes longer than the other's retry.
func TestTwoGatewaysRebuild(t *testing.T) {
	t.Parallel()
	b, book := setupHooked(t)
	for i, n := 0, 0; n < 2500; i++ {
		if name := "acme-" + strconv.Itoa(i); b.layout.PartitionOf(name) == b.layout.PartitionOf("acme-1") {
			b.book.AddAccount(name)
			n++
		}
	}
	book.onAccount = func(string) { <-time.After(time.Millisecond) } // more than one chunk of a thousand
	e1, e2 := b.startWith(b.server.URL(), book, nil), b.startWith(b.server.URL(), book, nil)
	b.eventuallyOpen(e1)
	b.eventuallyOpen(e2)
	require.NoError(t, b.raw().FlushAll(t.Context()).Err())
	start := time.Now()
	var wg sync.WaitGroup
	for _, e := range []*meter.Engine{e1, e2} {
		wg.Go(func() { // traffic on both
			for time.Since(start) < 40*time.Second {
				if _, err := e.Balance(t.Context(), "acme-1"); err == nil {
					return
				}
			}
			t.Errorf("not open after %s: %+v", time.Since(start), e.Ready())
		})
	}
	wg.Wait()
	t.Logf("open after %s", time.Since(start))
}

// A flusher that read before Redis was lost commits after the opener read the cursor and before it claimed.
func TestFlushBetweenCursorAndClaim(t *testing.T) {
	t.Parallel()
	b, book := setupHooked(t)
	e := b.startWith(b.server.URL(), book, nil)
	b.eventuallyOpen(e)
	b.eventuallyOpen(b.engine)
	b.account("acme", 3*meter.Credit)
	b.flush()
	d := b.reserve("acme", meter.Credit)
	_, err := b.engine.Commit(t.Context(), meter.Settle{ID: d.Reservation.ID, Account: "acme", Amount: meter.Credit})
	require.NoError(t, err)
	p := b.layout.PartitionOf("acme")
	at, err := b.book.Cursor(t.Context(), p)
	require.NoError(t, err)
	read, _, err := e.Ledger().Read(t.Context(), p, at.Position, 100, 0)
	require.NoError(t, err)
	require.Len(t, read.List, 1)
	var once atomic.Bool
	book.onClaim = func(q uint16) {
		if q == p && once.CompareAndSwap(false, true) {
			require.NoError(t, b.book.Fold(read.List)) // the flusher's COMMIT arrives
		}
	}
	require.NoError(t, b.raw().Del(t.Context(), b.layout.Keys(p).Meta(), b.layout.Keys(p).Ledger(), b.layout.Keys(p).Slots(),
		b.layout.Keys(p).Account("acme")).Err())
	_, err = e.Balance(t.Context(), "acme")
	require.NoError(t, err)
	id := e.NewReservationID("acme")
	_, err = e.Reserve(t.Context(), meter.Reserve{ID: id, Account: "acme", Amount: meter.Credit, Lease: lease})
	require.NoError(t, err)
	_, err = e.Commit(t.Context(), meter.Settle{ID: id, Account: "acme", Amount: meter.Credit})
	require.NoError(t, err)
	require.NoError(t, b.flushPartition(t.Context(), p, 0), "the ledger goes on without a gap")
}
