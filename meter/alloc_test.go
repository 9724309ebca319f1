//go:build !race

package meter

// Not under the race detector: it allocates itself.

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// unpackAllocsMax is what unpacking a reply may allocate, whatever the number of its records: one string for all texts.
const unpackAllocsMax = 1

// The flusher reads as many entries as requests are charged.
func TestAllocations(t *testing.T) { //nolint:paralleltest // others would add to its allocations
	var records []Record
	for range 100 {
		records = append(records, twoRecords("acme")...)
	}
	reply, r := ledgerReply(records...), new(Records)
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		require.NoError(t, readReply(r, reply))
	}), float64(unpackAllocsMax), "allocations of a read of %d records", len(records))
}
