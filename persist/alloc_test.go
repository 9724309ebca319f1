//go:build !race

package persist_test

// Not under the race detector: it allocates itself, and sync.Pool then drops what it is given at random.

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/persist"
)

// What flushing an entry may allocate, in batches as a busy gateway has them. Most is pgx' message with the arguments.
const (
	flushBytesMax  = 200.0
	flushAllocsMax = 0.3 // of which each batch has some hundred, however large it is
)

func TestAllocations(t *testing.T) { //nolint:paralleltest // others would add to its allocations
	const batches, warm, batch = 30, 5, 640
	l := newBacklog(t, batches*batch, 1, 250, batch, 32)
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection would empty the pool
	var from, to runtime.MemStats
	written := 0
	options := persist.FlushOptions{Every: time.Nanosecond, OnStep: func(_ uint16, step persist.Step) {
		if step != persist.StepCommitted {
			return
		}
		switch written++; written {
		case warm:
			runtime.ReadMemStats(&from)
		case batches:
			runtime.ReadMemStats(&to)
		}
	}}
	stop := inBackground(t, persist.NewFlusher(l.store, l, options, prometheus.NewRegistry(), zerolog.Nop()).Run)
	<-l.drained
	stop()
	require.Equal(t, batches, written)
	entries := float64((batches - warm) * batch)
	require.Less(t, float64(to.TotalAlloc-from.TotalAlloc)/entries, flushBytesMax, "bytes for an entry")
	require.Less(t, float64(to.Mallocs-from.Mallocs)/entries, flushAllocsMax, "allocations for an entry")
}
