//go:build !race

package gateway_test

// Not under the race detector: it allocates itself, and sync.Pool then drops what it is given at random.

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/meter"
)

// Bounds of TestAllocations, in heap allocations of the whole process a request: client and backend make none once warm.
const (
	warmRequests  = 500
	roundRequests = 500
	allocRounds   = 8
	// freeAllocsMax has room for two, the breaker's answer and the request id in text, and for a round that always has
	// some of the sweeper's work in it, but not for a third.
	freeAllocsMax = 2.5
)

// A free request is what a priced one is compared with, so it must not get dearer unseen.
func TestAllocations(t *testing.T) { //nolint:paralleltest // others would add to its allocations
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	b.backend.answer(200, `{"data":[{"url":"x"}]}`)
	free := allocations(t, b.data+"/studio/revert", key, `{"n":1}`)
	require.LessOrEqual(t, free, freeAllocsMax, "allocations of a free request")
}

// allocations is how many a request makes, in the round with the fewest: other rounds had the sweeper or the collector
// in them.
func allocations(t *testing.T, url, key, body string) float64 {
	t.Helper()
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	req.SetRequestURI(url)
	req.Header.SetMethod(fasthttp.MethodPost)
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.SetContentType("application/json")
	req.SetBodyString(body)
	client := &fasthttp.HostClient{Addr: string(req.URI().Host())}
	req.SetHost("creditgate.studio.svc.cluster.local:8080") // longer than the 32 bytes that become a string without an allocation
	run := func(n int) {
		for range n {
			if err := client.Do(req, resp); err != nil || resp.StatusCode() != fasthttp.StatusOK {
				t.Fatalf("status %d: %v", resp.StatusCode(), err)
			}
		}
	}
	run(warmRequests)
	var before, after runtime.MemStats
	fewest := uint64(1 << 62)
	for range allocRounds {
		runtime.ReadMemStats(&before)
		run(roundRequests)
		runtime.ReadMemStats(&after)
		fewest = min(fewest, after.Mallocs-before.Mallocs)
	}
	return float64(fewest) / roundRequests
}
