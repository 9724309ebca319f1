package guard_test

import (
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/meter/metertest"
)

var update = flag.Bool("update", false, "write the recorded table anew")

const (
	costsFile       = "testdata/costs.json"
	allocationsUnit = "heap allocations"
	bytesUnit       = "heap bytes"
)

// countedRequests is how many requests a count is of. The runtime knows of an allocation only when the span that it is in
// is full: some thousand of them are always unknown, which so many requests make little of. So is what the process does
// besides, which is some 300 allocations a second.
const (
	countedRequests = 8192
	warmingRequests = 512 // fill pools and caches
)

// How far counts move by themselves: repeated ones differ by less than 1 allocation, so that two more for each request
// are always seen. With many clients the size of flights, and with it the share of one request, is the machine's doing.
const (
	allocationsPlus = 1.2
	bytesShare      = 0.02
	bytesPlus       = 100
	crowdShare      = 0.15
	crowdPlus       = 3
)

// heap is what a gateway allocated.
type heap struct{ allocations, bytes float64 }

func (h heap) minus(o heap) heap { return heap{h.allocations - o.allocations, h.bytes - o.bytes} }

func (g *gateway) heap() heap {
	g.t.Helper()
	f := g.figures()
	require.Contains(g.t, f, mallocs)
	require.Contains(g.t, f, mallocBytes)
	return heap{f[mallocs], f[mallocBytes]}
}

// count sends requests on a route, by a number of clients, and returns what one makes the gateway allocate.
func (w *world) count(route string, clients int) heap {
	w.t.Helper()
	own := w.clients(clients)
	w.send(own, route, warmingRequests)
	before := w.counted.heap()
	w.send(own, route, countedRequests)
	cost := w.counted.heap().minus(before)
	return heap{cost.allocations / countedRequests, cost.bytes / countedRequests}
}

// clients are connections to the gateway, one request in flight on each.
func (w *world) clients(n int) []*fasthttp.HostClient {
	w.t.Helper()
	out := make([]*fasthttp.HostClient, n)
	for i := range out {
		out[i] = &fasthttp.HostClient{Addr: w.counted.data, MaxConns: 1}
		w.t.Cleanup(out[i].CloseIdleConnections)
	}
	return out
}

// send sends requests and requires that each succeeds.
func (w *world) send(clients []*fasthttp.HostClient, route string, requests int) {
	w.t.Helper()
	var work sync.WaitGroup
	for _, client := range clients {
		work.Go(func() {
			req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			req.SetRequestURI("http://" + client.Addr + route)
			req.Header.SetMethod("POST")
			req.Header.Set("Authorization", "Bearer "+w.key)
			req.Header.SetContentType("application/json")
			req.SetBodyString(`{"prompt":"a red bicycle","n":1}`)
			for range requests / len(clients) {
				if err := client.Do(req, resp); err != nil || resp.StatusCode() != fasthttp.StatusOK {
					w.t.Errorf("%s: %v %d %s", route, err, resp.StatusCode(), resp.Body())
					return
				}
			}
		})
	}
	work.Wait()
	require.False(w.t, w.t.Failed())
}

// TestAllocations counts what a request makes the gateway allocate and fails when it grew. -update records the
// figures: read the difference before committing it.
func TestAllocations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var counted []metertest.Cost
	add := func(cell string, h heap, share, plus float64) {
		counted = append(
			counted,
			metertest.Cost{Cell: cell, Unit: allocationsUnit, PerRequest: h.allocations, Share: share, Plus: plus},
			metertest.Cost{Cell: cell, Unit: bytesUnit, PerRequest: h.bytes, Share: max(share, bytesShare), Plus: bytesPlus * max(1, plus)},
		)
	}
	free := w.count("/free", 1)
	add("1 client, free", free, 0, allocationsPlus)
	add("1 client, fixed price, beyond free", w.count("/fixed", 1).minus(free), 0, allocationsPlus)
	add("1 client, price from the body, beyond free", w.count("/units", 1).minus(free), 0, allocationsPlus)
	crowd := w.count("/free", 64)
	add("64 clients, fixed price, beyond free", w.count("/fixed", 64).minus(crowd), crowdShare, crowdPlus)
	require.Zero(t, w.counted.figure(recordsFlushed), "the other gateway was to flush the ledger")

	recorded, err := metertest.ReadCosts(costsFile)
	require.NoError(t, err)
	if *update {
		require.NoError(t, recorded.Record(costsFile, counted))
		recorded, err = metertest.ReadCosts(costsFile)
		require.NoError(t, err)
	}
	table, grew, shrank := recorded.Judge(counted)
	fmt.Fprintln(os.Stdout, table)
	for _, s := range shrank {
		fmt.Fprintln(os.Stdout, "less than recorded:", s)
	}
	require.Empty(t, grew, "a request makes the gateway allocate more than before. If that is the price of something "+
		"worth it, record it:\ngo test ./bench/guard -run '^TestAllocations$' -update")
}
