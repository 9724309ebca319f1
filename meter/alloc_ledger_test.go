//go:build !race

package meter_test

// Not under the race detector: it allocates itself.

import (
	"testing"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// What a read of a ledger may allocate: go-redis makes three small values for each record, and some for the transaction
// around it; and a string is made of all that was read. The records' own memory is that of the read before.
const (
	readAllocsEach  = 3
	readAllocsOnce  = 100
	readBytesRecord = 320
)

func TestAllocationsOfAReadOfTheLedger(t *testing.T) { //nolint:paralleltest // others would add to its allocations
	w := newLapseBundle(t)
	w.gift(w.engine, "acme")
	const records = 200
	for range records {
		d := w.reserve("acme", meter.Credit/1000)
		_, err := w.engine.Commit(t.Context(), meter.Settle{ID: d.Reservation.ID, Account: "acme", Amount: meter.Credit / 1000})
		require.NoError(t, err)
	}
	p := w.layout.PartitionOf("acme")
	at, err := w.book.Cursor(t.Context(), p)
	require.NoError(t, err)
	ledger := w.engine.Ledger()
	r := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			read, _, err := ledger.Read(t.Context(), p, at.Position, 1000, 0)
			if err != nil || len(read.List) != records {
				b.Fatal(err)
			}
			read.Release()
		}
	})
	require.Positive(t, r.N)
	require.LessOrEqual(t, r.AllocsPerOp(), int64(readAllocsEach*records+readAllocsOnce))
	require.LessOrEqual(t, r.AllocedBytesPerOp(), int64(readBytesRecord*records), "bytes of a read of %d records", records)
}
