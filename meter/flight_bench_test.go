package meter_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
	"creditgate/meter/redisd"
)

// BenchmarkFlight is what a flight of a known size costs Redis: `ops` reservations in one flight, then their commits
// in the next, spread over accounts with some live grants and over partitions. One iteration is one pair, so that the
// figures are per metered request.
func BenchmarkFlight(b *testing.B) {
	for _, c := range []struct{ ops, accounts, grants, partitions int }{
		{1, 1, 3, 1},
		{32, 1, 3, 1},
		{32, 1000, 3, 1},
		{32, 1000, 3, 4},
		{32, 1000, 3, 64},
		{32, 1000, 1, 4},
		{32, 1000, 12, 4},
		{128, 1, 3, 1},
		{128, 1000, 3, 4},
		{128, 1000, 3, 256},
	} {
		name := fmt.Sprintf("ops=%d/accounts=%d/grants=%d/partitions=%d", c.ops, c.accounts, c.grants, c.partitions)
		b.Run(name, func(b *testing.B) {
			w := newFlights(b, c.accounts, c.grants, uint16(c.partitions))
			w.pairs(c.ops, 10*c.ops)
			before := w.redisMicros()
			b.ReportAllocs()
			b.ResetTimer()
			w.pairs(c.ops, b.N)
			b.ReportMetric(float64(w.redisMicros()-before)/float64(b.N), "redis-cpu-µs/op")
		})
	}
}

// flights is an engine that nothing else uses: no sweeper, no flusher.
type flights struct {
	b        testing.TB
	layout   meter.Layout
	engine   *meter.Engine
	accounts []string
	next     int
}

func newFlights(tb testing.TB, accounts, grants int, partitions uint16) *flights {
	tb.Helper()
	layout := meter.Layout{Number: 1, Partitions: partitions}
	bundle := &testBundle{t: tb, server: redisd.Test(tb), layout: layout, book: metertest.NewBook(layout)}
	e, err := meter.New(meter.Options{
		RedisURL: bundle.server.URL(), Layout: layout, Book: bundle.book, Rebuild: bundle.book, Metrics: prometheus.NewRegistry(),
	})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, e.Redis().Close()) })
	require.NoError(tb, e.OpenNow(tb.Context()))
	bundle.engine = e
	w := &flights{b: tb, layout: layout, engine: e}
	for i := range accounts {
		name := fmt.Sprintf("account-%d", i)
		bundle.book.AddAccount(name)
		p := layout.PartitionOf(name)
		load, err := e.Fly(meter.LoadOp(p, meter.NewID(time.Now()), name, e.EpochOf(p)))
		require.NoError(tb, err)
		require.Equal(tb, meter.CodeOK, load[0].Code)
		var ops []*meter.Op
		for g := range grants {
			lot := meter.Grant{
				ID: meter.NewID(time.Now()), Bucket: "monthly", Rank: uint8(g), Available: 1 << 40, ExpiresMs: meter.Never,
			}
			bundle.book.AddLot(lot)
			ops = append(ops, meter.GrantOp(p, meter.GrantChange{Account: name, Grant: lot}))
		}
		_, err = e.Fly(ops...)
		require.NoError(tb, err)
		w.accounts = append(w.accounts, name)
	}
	bundle.flush()
	return w
}

func (w *flights) pairs(size, n int) {
	w.b.Helper()
	for done := 0; done < n; done += size {
		reserves, commits := make([]*meter.Op, size), make([]*meter.Op, size)
		for i := range size {
			account := w.accounts[w.next%len(w.accounts)]
			w.next++
			id := w.engine.NewReservationID(account)
			// One key makes many requests, as it is.
			note := meter.Note{Operation: "generate", PolicyVersion: "0123456789ab", KeyID: "key-of-" + account}
			reserves[i] = meter.ReserveOp(meter.Reserve{
				ID: id, Account: account, Amount: meter.Credit, Lease: time.Minute, Note: note, Brief: true,
			})
			commits[i] = meter.CommitOp(meter.Settle{
				ID: id, Account: account, Amount: meter.Credit, Units: 1, Note: note, Brief: true,
			}, false)
		}
		for _, ops := range [][]*meter.Op{reserves, commits} {
			ds, err := w.engine.Fly(ops...)
			require.NoError(w.b, err)
			for _, d := range ds {
				require.Equal(w.b, meter.CodeOK, d.Code)
			}
		}
	}
}

func (w *flights) redisMicros() int {
	info, err := w.engine.Redis().Info(w.b.Context(), "cpu").Result()
	require.NoError(w.b, err)
	total := 0.0
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_user" || name == "used_cpu_sys" {
			seconds, err := strconv.ParseFloat(value, 64)
			require.NoError(w.b, err)
			total += seconds
		}
	}
	return int(total * 1e6)
}

// BenchmarkRoundTrip is the least that one script call costs from here: what a flight of one operation is compared with.
func BenchmarkRoundTrip(b *testing.B) {
	w := newFlights(b, 1, 1, 1)
	client := w.engine.Redis()
	sha, err := client.ScriptLoad(b.Context(), "return 1").Result()
	require.NoError(b, err)
	before := w.redisMicros()
	for b.Loop() {
		require.NoError(b, client.EvalSha(b.Context(), sha, nil).Err())
	}
	b.ReportMetric(float64(w.redisMicros()-before)/float64(b.N), "redis-cpu-µs/op")
}
