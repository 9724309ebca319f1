package meter_test

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// BenchmarkReserveCommit is one priced request's worth of metering on a real Redis: a reserve and a commit, by a
// number of callers at once, on one hot account and on a thousand.
func BenchmarkReserveCommit(b *testing.B) {
	for _, accounts := range []int{1, 1000} {
		for _, callers := range []int{1, 64, 256} {
			b.Run(fmt.Sprintf("accounts=%d/callers=%d", accounts, callers), func(b *testing.B) {
				bundle := setup(b)
				bundle.keepFlushing()
				for i := range accounts {
					bundle.account(fmt.Sprintf("account-%d", i), 1<<40, 1<<40, 1<<40)
				}
				before := cpuMicros(b, bundle)
				b.ReportAllocs()
				b.ResetTimer()
				runCallers(b, callers, func(i int) {
					account := fmt.Sprintf("account-%d", i%accounts)
					id := bundle.engine.NewReservationID(account)
					note := meter.Note{Operation: "generate", PolicyVersion: "0123456789ab", KeyID: "key-of-" + account}
					d, err := bundle.engine.Reserve(b.Context(), meter.Reserve{
						ID: id, Account: account, Amount: meter.Credit, Lease: time.Minute, Note: note,
					})
					if err != nil || d.Code != meter.CodeOK {
						b.Fatalf("reserve: %v %v", d.Code, err)
					}
					d, err = bundle.engine.Commit(b.Context(), meter.Settle{
						ID: id, Account: account, Amount: meter.Credit, Units: 1, Note: note,
					})
					if err != nil || d.Code != meter.CodeOK {
						b.Fatalf("commit: %v %v", d.Code, err)
					}
				})
				b.ReportMetric(float64(cpuMicros(b, bundle)-before)/float64(b.N), "redis-cpu-µs/op")
			})
		}
	}
}

// runCallers runs fn b.N times, by a number of goroutines at once.
func runCallers(b *testing.B, callers int, fn func(i int)) {
	b.Helper()
	var next atomic.Int64
	done := make(chan struct{})
	for range callers {
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				i := int(next.Add(1)) - 1
				if i >= b.N {
					return
				}
				fn(i)
			}
		}()
	}
	for range callers {
		<-done
	}
}

// cpuMicros is the CPU time that Redis has used, which, unlike time on the clock, does not grow when its core is
// shared. The kernel counts it in ticks of 10 ms.
func cpuMicros(b *testing.B, bundle *testBundle) int {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", bundle.server.PID()))
	if err != nil {
		return 0 // not Linux: the figure is left out
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, err := strconv.Atoi(fields[11])
	require.NoError(b, err)
	system, err := strconv.Atoi(fields[12])
	require.NoError(b, err)
	return (user + system) * 10_000
}
