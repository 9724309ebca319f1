package main_test

import (
	"context"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Prices change thirty times under sixteen clients, by signal and by the control plane, with files among them that are
// refused. No request is dropped or refused, each is charged by one of the prices, and the ledger has each charge once.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	const clients, reloads, credit = 16, 30, 1_000_000
	w := newWorld(t, nil)
	g := w.serve(t)
	key := g.account(t, "busy", "purchased", credit)
	src, err := os.ReadFile(w.policy)
	require.NoError(t, err)
	const price = "max: 10\n    credits: 1\n"
	require.Contains(t, string(src), price)
	write := func(credits string) {
		next := w.policy + ".next"
		text := strings.Replace(string(src), price, "max: 10\n    credits: "+credits+"\n", 1)
		require.NoError(t, os.WriteFile(next, []byte(text), 0o600))
		require.NoError(t, os.Rename(next, w.policy))
	}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var sum, answered atomic.Int64
	var seen [3]atomic.Int64 // requests by price
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for ctx.Err() == nil {
				r, err := generate(context.WithoutCancel(ctx), http.DefaultClient, g.data, key)
				charged, parseErr := strconv.Atoi(r.charged)
				if err != nil || parseErr != nil || r.status != http.StatusOK || charged < 1 || charged > 2 {
					t.Errorf("%v, %d, charged %q: %s", err, r.status, r.charged, r.body)
					return
				}
				sum.Add(int64(charged))
				seen[charged].Add(1)
				answered.Add(1)
			}
		})
	}
	for n := range reloads {
		before := answered.Load()
		switch n % 3 {
		case 0:
			write([]string{"1", "2"}[n/3%2])
			g.must(t, "POST", "/v1/policy/reload", "")
		case 1:
			write("TBD")
			status, answer := g.ask(t, "POST", "/v1/policy/reload", "")
			require.Equal(t, http.StatusUnprocessableEntity, status, answer)
		case 2:
			write([]string{"2", "1"}[n/3%2])
			require.NoError(t, g.cmd.Process.Signal(syscall.SIGHUP))
		}
		require.Eventually(t, func() bool { return t.Failed() || answered.Load() >= before+clients }, patience, time.Millisecond)
	}
	stop()
	all.Wait()
	t.Logf("%d requests: %d at 1 credit, %d at 2", answered.Load(), seen[1].Load(), seen[2].Load())
	require.Positive(t, seen[1].Load())
	require.Positive(t, seen[2].Load())
	b := g.balance(t, "busy")
	require.Zero(t, b.Held)
	require.Equal(t, credit-sum.Load(), int64(b.Available))
	w.verified(t)
}
