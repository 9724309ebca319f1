package meter_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
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

// scanned is how often Redis carried out HSCAN, and how many bytes it has sent in all.
func scanned(t *testing.T, c redis.UniversalClient) (scans, bytes int) {
	t.Helper()
	info, err := c.InfoMap(t.Context(), "commandstats", "stats").Result()
	require.NoError(t, err)
	calls, _, _ := strings.Cut(strings.TrimPrefix(info["Commandstats"]["cmdstat_hscan"], "calls="), ",")
	scans, _ = strconv.Atoi(calls) // none: no series
	bytes, err = strconv.Atoi(info["Stats"]["total_net_output_bytes"])
	require.NoError(t, err)
	return scans, bytes
}

// cold makes accounts of one partition that Redis has lost, each with a hold, beside many holds of another account.
func cold(t *testing.T, b *testBundle, accounts, holds int) (names []string) {
	t.Helper()
	c, keys := b.raw(), b.layout.Keys(0)
	for n := range accounts {
		name := fmt.Sprintf("cold-%d", n)
		names = append(names, name)
		b.account(name, 3*meter.Credit)
		require.Equal(t, meter.CodeOK, b.reserve(name, meter.Credit).Code)
		b.flush()
		require.NoError(t, c.Del(t.Context(), keys.Account(name)).Err())
	}
	for len(names) > 0 && holds > 0 {
		var fields []any
		for range min(holds, 1000) {
			id := meter.NewID(time.Now())
			fields = append(fields, string(id[:]), meter.AppendReservation(nil, meter.Reservation{
				State: meter.Held, Amount: 1, Account: "another", DeadlineMs: time.Now().Add(time.Hour).UnixMilli(),
				Draws: []meter.Draw{{Grant: id, Amount: 1}},
			}))
		}
		require.NoError(t, c.HSet(t.Context(), keys.Open(), fields...).Err())
		holds -= 1000
	}
	return names
}

// Accounts that are loaded at the same time share one look at what is open.
func TestLoadsShareAScanOfTheHolds(t *testing.T) {
	t.Parallel()
	const accounts, holds = 100, 5_000
	b := &testBundle{t: t, server: redisd.Test(t), layout: meter.Layout{Number: 1, Partitions: 1}}
	b.book = metertest.NewBook(b.layout)
	b.engine = b.moved(nil) // no sweep scans beside it
	names := cold(t, b, accounts, holds)
	c := b.raw()
	book := &hookBook{Book: b.book}
	var there sync.WaitGroup
	there.Add(accounts)
	book.onAccount = func(string) { there.Done(); there.Wait() } // so that they are loaded at the same time
	e, err := meter.New(meter.Options{
		RedisURL: b.server.URL(), Layout: b.layout, Book: book, Rebuild: book, Log: zerolog.Nop(),
		Metrics: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = e.Redis().Close() })
	require.NoError(t, e.OpenNow(t.Context()))

	scans, bytes := scanned(t, c)
	began := time.Now()
	var callers sync.WaitGroup
	for _, name := range names {
		callers.Go(func() {
			d, err := e.Balance(t.Context(), name)
			if err != nil || d.Account.Held() != meter.Credit || d.Account.Available(d.NowMs) != 2*meter.Credit {
				t.Errorf("%s: %v: held %s, available %s", name, err, d.Account.Held(), d.Account.Available(d.NowMs))
			}
		})
	}
	callers.Wait()
	took := time.Since(began)
	scansAfter, bytesAfter := scanned(t, c)
	t.Logf("%d accounts beside %d holds: %d HSCAN, %d kB, %s", accounts, holds, scansAfter-scans, (bytesAfter-bytes)/1000, took)
	const one = holds/1000 + 2 // HSCAN of one scan: the chunks of a hash are not of one size
	require.LessOrEqual(t, scansAfter-scans, accounts/4*one, "not one scan for each account")
}
