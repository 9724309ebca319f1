package main_test

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// Redis runs full under load. Reservations are refused and open ones are settled. After the load the gateway serves again
// without a hand, because the ledger is flushed, and trimmed after trim_lag.
func TestFullRedisServesAgainByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.serve(t, "CREDITGATE_TRIM_LAG=3s")
	key := g.account(t, "load", "purchased", 1_000_000)
	client, err := meter.NewRedis(w.redis.URL())
	require.NoError(t, err)
	defer client.Close()

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var delivered, refused atomic.Int64
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			for ctx.Err() == nil {
				r, err := generate(context.WithoutCancel(ctx), http.DefaultClient, g.data, key)
				switch {
				case err == nil && r.status == http.StatusOK:
					delivered.Add(1)
				case err == nil && r.status == http.StatusServiceUnavailable:
					refused.Add(1)
				default:
					t.Errorf("neither delivered nor refused: %v %+v", err, r)
					return
				}
			}
		})
	}
	await := func(what string, n *atomic.Int64, more int64) {
		t.Helper()
		from := n.Load()
		require.Eventually(t, func() bool { return n.Load() >= from+more }, patience, 10*time.Millisecond, what)
	}
	await("load", &delivered, 500)
	memory, err := client.InfoMap(t.Context(), "memory").Result()
	require.NoError(t, err)
	used, err := strconv.Atoi(memory["Memory"]["used_memory"])
	require.NoError(t, err)
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory", strconv.Itoa(used+1<<20)).Err())
	await("Redis is full", &refused, 50)
	stop()
	clients.Wait()
	ended := time.Now()
	require.Zero(t, g.balance(t, "load").Held, "what was held is settled")
	require.Eventually(t, func() bool {
		r, err := generate(t.Context(), http.DefaultClient, g.data, key)
		return err == nil && r.status == http.StatusOK && delivered.Add(1) > 0
	}, patience, 20*time.Millisecond, "service again")
	t.Logf("%d delivered, %d refused; service again %s after the load", delivered.Load(), refused.Load(),
		time.Since(ended).Round(time.Millisecond))
	require.Equal(t, balance{Available: 1_000_000 - float64(delivered.Load())}, g.balance(t, "load"))
	w.verified(t)
}
