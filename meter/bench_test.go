package meter_test

import (
	"fmt"
	"regexp"
	"strconv"
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
				stats := commandStats(b, bundle)
				b.ReportAllocs()
				b.ResetTimer()
				runCallers(b, callers, func(i int) {
					account := fmt.Sprintf("account-%d", i%accounts)
					id := bundle.engine.NewReservationID(account)
					note := meter.Note{Operation: "generate", PolicyVersion: "0123456789ab", KeyID: id.ID.String()}
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
				b.ReportMetric(float64(commandStats(b, bundle)-stats)/float64(b.N), "redis-µs/op")
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

// commandStats is the time in µs that Redis has spent in scripts.
func commandStats(b *testing.B, bundle *testBundle) int {
	b.Helper()
	client, err := meter.NewRedis(bundle.server.URL())
	require.NoError(b, err)
	defer client.Close()
	info, err := client.Info(b.Context(), "commandstats").Result()
	require.NoError(b, err)
	m := regexp.MustCompile(`cmdstat_evalsha:calls=\d+,usec=(\d+)`).FindStringSubmatch(info)
	require.NotNil(b, m)
	usec, err := strconv.Atoi(m[1])
	require.NoError(b, err)
	return usec
}
