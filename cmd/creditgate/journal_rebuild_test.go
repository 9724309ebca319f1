package main_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// metric is the value of one series as the gateway shows it, such as "creditgate_journal_pending".
func (g *gateway) metric(t *testing.T, series string) string {
	t.Helper()
	for line := range strings.Lines(g.must(t, "GET", "/metrics", "")) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	require.FailNow(t, "no series "+series)
	return ""
}

// copyOfRedis copies what Redis has on disk now, and returns a function that puts it back and starts Redis with it.
func (w *world) copyOfRedis(t *testing.T) (restore func()) {
	t.Helper()
	const logs = "appendonlydir"
	here, there := filepath.Join(w.redis.Dir(), logs), filepath.Join(t.TempDir(), logs)
	require.NoError(t, w.redis.Pause()) // so that no file is copied in the middle of a write
	require.NoError(t, os.CopyFS(there, os.DirFS(here)))
	require.NoError(t, w.redis.Resume())
	return func() {
		require.NoError(t, w.redis.Kill())
		require.NoError(t, os.RemoveAll(here))
		require.NoError(t, os.CopyFS(here, os.DirFS(there)))
		require.NoError(t, w.redis.Restart(t.Context()))
	}
}

// drained waits until the gateway's journal has no charge left, and logs how long that took since a moment.
func (g *gateway) drained(t *testing.T, since time.Time) {
	t.Helper()
	require.Eventually(t, func() bool {
		status, _ := g.ask(t, "GET", "/readyz", "")
		return status == http.StatusOK
	}, patience, 20*time.Millisecond, "the partition opens again")
	opened := time.Now()
	require.Eventually(t, func() bool { return g.metric(t, "creditgate_journal_pending") == "0" },
		patience, 20*time.Millisecond, "the journal drains while the gateway lives")
	t.Logf("open again after %s, the journal drained %s later",
		opened.Sub(since).Round(time.Millisecond), time.Since(opened).Round(time.Millisecond))
}

// Redis comes back as an older copy while images are being made. It is fenced, a person empties it, and it is rebuilt
// from Postgres. The charges that the gateway journalled meanwhile are booked without a restart of the gateway.
func TestJournalDrainsAfterAnOlderCopyWasEmptied(t *testing.T) {
	t.Parallel()
	const under = 26
	var slow sync.Map // requests after this one wait
	asked, release := make(chan struct{}, under), make(chan struct{})
	w := newWorld(t, func(*http.Request) {
		if _, on := slow.Load("on"); on {
			asked <- struct{}{}
			<-release
		}
	})
	g := w.serve(t)
	key := g.account(t, "restored", "purchased", 100)
	spend := func(n int) {
		for range n {
			r, err := generate(t.Context(), http.DefaultClient, g.data, key)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, r.status, r.body)
		}
	}
	spend(3)
	restore := w.copyOfRedis(t)
	spend(5)
	w.verified(t) // Postgres has records that the copy has not

	slow.Store("on", true)
	replies := make(chan reply, under)
	var clients sync.WaitGroup
	for range under {
		clients.Go(func() {
			r, err := generate(t.Context(), http.DefaultClient, g.data, key)
			if err != nil {
				t.Error(err)
			}
			replies <- r
		})
	}
	for range under {
		<-asked
	}
	restore()
	close(release)
	clients.Wait()
	close(replies)
	var delivered []reply
	for r := range replies {
		require.Equal(t, http.StatusOK, r.status, r.body)
		require.Equal(t, "1", r.charged)
		delivered = append(delivered, r)
	}
	require.Equal(t, "26", g.metric(t, "creditgate_journal_pending"))

	client, err := meter.NewRedis(w.redis.URL())
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, client.FlushAll(t.Context()).Err())
	g.drained(t, time.Now())
	require.Equal(t, balance{Available: 100 - 3 - 5 - under}, g.balance(t, "restored"))
	w.verified(t)
	entries := entriesOf(t, w, "restored")
	for _, r := range delivered {
		require.Equal(t, meter.Credit, charged(entries[r.reservation]), "each image once")
	}
}

// Redis loses everything again and again under load. What was delivered and could not be settled is in the journal, and
// leaves it once the partition is open.
func TestJournalDrainsAfterRedisWasEmptiedUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(*http.Request) {
		<-time.After(10 * time.Millisecond) // work, so that requests are under way when Redis is emptied
	})
	g := w.serve(t)
	key := g.account(t, "load", "purchased", 100_000)
	client, err := meter.NewRedis(w.redis.URL())
	require.NoError(t, err)
	defer client.Close()

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	answered := make(chan struct{}, 16)
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			for ctx.Err() == nil {
				if _, err := generate(context.WithoutCancel(ctx), http.DefaultClient, g.data, key); err != nil {
					t.Error(err)
					return
				}
				select {
				case answered <- struct{}{}:
				case <-ctx.Done():
				}
			}
		})
	}
	for range 5 {
		for range 200 {
			<-answered
		}
		require.NoError(t, client.FlushAll(t.Context()).Err())
	}
	stop()
	clients.Wait()
	g.drained(t, time.Now())
	w.verified(t)
}
