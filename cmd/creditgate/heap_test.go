package main

import (
	"runtime"
	"runtime/metrics"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRaiseHeap(t *testing.T) { //nolint:paralleltest // reads the goal of the whole process
	goal := func() uint64 {
		runtime.GC()
		s := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	before := goal()
	floor := raiseHeap([]string{"PATH=/bin"})
	require.GreaterOrEqual(t, goal(), before+heapFloor, "the collector waits for more garbage")
	runtime.KeepAlive(floor)
	require.Nil(t, raiseHeap([]string{"GOGC=100"}), "the operator decides")
	require.Nil(t, raiseHeap([]string{"PATH=/bin", "GOMEMLIMIT=1GiB"}))
}
