package persist_test

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// BenchmarkFlush measures how fast a backlog drains: entries of one line each, as a burst of one-credit requests
// leaves them, 32 to a record.
func BenchmarkFlush(b *testing.B) {
	w := newWorld(b)
	store := persisttest.Store(b, layout)
	epoch, err := store.ClaimEpoch(b.Context(), 0, 0)
	require.NoError(b, err)
	w.ledger.setEpoch(epoch)
	admin := persist.NewAdmin(store, w, "", zerolog.Nop())
	product := "studio"
	grants := map[string]meter.ID{}
	for _, name := range []string{"ada", "bob", "cleo", "dan"} {
		_, err := admin.PutAccount(b.Context(), persist.AccountChange{Account: name, Product: &product})
		require.NoError(b, err)
		g, err := admin.Grant(b.Context(), persist.NewGrant{
			Account: name, Bucket: "promo", Credits: meter.MaxCredits, Ref: name,
		})
		require.NoError(b, err)
		grants[name] = g.GrantID
	}
	entries := 0
	for entries < b.N {
		var record []meter.Entry
		for len(record) < 32 {
			for name, grant := range grants {
				id := meter.NewID(time.Now())
				record = append(record, commitEntry(name, id, grant, meter.Credit, 0, meter.Note{
					Operation: "apply", PolicyVersion: "0123456789abcdef", KeyID: id.String(),
				}))
			}
		}
		w.book(record...)
		entries += len(record)
	}
	head, err := w.ledger.Head(b.Context(), 0)
	require.NoError(b, err)
	done := make(chan struct{})
	source := preload(b, w.ledger)
	source.flushed = func(at meter.Position) {
		if at.Pseq == head.Pseq {
			close(done)
		}
	}
	f := persist.NewFlusher(store, source, persist.FlushOptions{}, prometheus.NewRegistry(), zerolog.Nop())
	b.ResetTimer()
	go f.Run(b.Context())
	<-done
	b.ReportMetric(float64(entries)/b.Elapsed().Seconds(), "entries/s")
}

// preloaded reads from memory what a fileLedger has, so that reading costs about what Redis costs.
type preloaded struct {
	*fileLedger

	records []meter.Record
	flushed func(at meter.Position)
}

func (p *preloaded) Flushed(_ context.Context, _ uint16, at, _ meter.Position) error {
	p.flushed(at)
	return nil
}

func preload(tb testing.TB, l *fileLedger) *preloaded {
	tb.Helper()
	records, err := l.all(0)
	require.NoError(tb, err)
	return &preloaded{fileLedger: l, records: records}
}

func (p *preloaded) Read(
	ctx context.Context, partition uint16, after meter.Position, limit int, wait time.Duration,
) ([]meter.Record, uint64, error) {
	rest := p.records[after.Pseq:]
	if len(rest) == 0 {
		return p.fileLedger.Read(ctx, partition, after, limit, wait)
	}
	return rest[:min(len(rest), limit)], p.epoch, nil
}
