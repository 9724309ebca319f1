package load_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/bench/cast"
	"creditgate/bench/load"
)

// serve starts a real server and returns its address.
func serve(t *testing.T, handler fasthttp.RequestHandler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &fasthttp.Server{Handler: handler, MaxRequestBodySize: 4 * cast.ImageSize}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, server.Shutdown())
		require.NoError(t, <-served)
	})
	return l.Addr().String()
}

func run(t *testing.T, o load.Options) load.Result {
	t.Helper()
	r, err := load.Run(t.Context(), o, load.Moments{})
	require.NoError(t, err)
	return r
}

// slower returns how many requests took at least so long.
func slower(t *testing.T, r load.Result, than time.Duration) int64 {
	t.Helper()
	h, err := hdrhistogram.Decode([]byte(r.Latency.Hist))
	require.NoError(t, err)
	require.Equal(t, r.Requests, h.TotalCount())
	n := int64(0)
	for _, bar := range h.Distribution() {
		if bar.From >= than.Microseconds() {
			n += bar.Count
		}
	}
	return n
}

func TestClosedLoopCountsWhatTheServerAnswered(t *testing.T) {
	t.Parallel()
	var served atomic.Int64
	var mu sync.Mutex
	keys := map[string]int{}
	addr := serve(t, func(ctx *fasthttp.RequestCtx) {
		served.Add(1)
		mu.Lock()
		keys[string(ctx.Request.Header.Peek("Authorization"))]++
		mu.Unlock()
		if string(ctx.Path()) != cast.PathPriced || string(ctx.PostBody()) != string(cast.Request()) {
			ctx.SetStatusCode(400)
		}
		ctx.SetBody(cast.Answer())
	})
	r := run(t, load.Options{
		Addrs: []string{addr}, Path: cast.PathPriced, Accounts: 100, Active: 10, Clients: 8, Length: 200 * time.Millisecond, Seed: 1,
	})
	require.Empty(t, r.Errors)
	require.Positive(t, r.Requests)
	// What is answered after the end is not counted: at most one request of each client.
	require.LessOrEqual(t, served.Load()-r.Requests, int64(8))
	require.GreaterOrEqual(t, served.Load(), r.Requests)
	for i := range 10 {
		delete(keys, "Bearer "+cast.Key(i*10))
	}
	require.Empty(t, keys, "ten accounts of a hundred, evenly spread")
}

func TestAnswersThatAreNot200AreCountedByStatus(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	addr := serve(t, func(ctx *fasthttp.RequestCtx) {
		switch n.Add(1) {
		case 3:
			ctx.SetStatusCode(402)
		case 5:
			ctx.SetStatusCode(503)
			ctx.SetConnectionClose()
		case 7:
			ctx.Conn().Close()
		}
	})
	r := run(t, load.Options{
		Addrs: []string{addr}, Path: cast.PathFree, Accounts: 1, Clients: 1, Rate: 100, Length: 200 * time.Millisecond,
	})
	require.Equal(t, int64(20), r.Requests)
	require.Equal(t, map[string]int64{"402": 1, "503": 1, "read": 1}, r.Errors)
}

// A server that stalls once is charged for everybody who came meanwhile. Slowness of the machine can only add to
// what is asserted, since nothing here has an upper bound.
func TestOpenLoopCountsFromTheDueTime(t *testing.T) {
	t.Parallel()
	const rate, stall = 1000, 200 * time.Millisecond
	var n atomic.Int64
	addr := serve(t, func(ctx *fasthttp.RequestCtx) {
		if n.Add(1) == 100 { // due 99 ms after the start, so that the stall ends at 299 ms or later
			<-time.After(stall)
		}
		ctx.SetBody(cast.Answer())
	})
	r := run(t, load.Options{
		Addrs: []string{addr}, Path: cast.PathPriced, Accounts: 1, Clients: 1, Rate: rate, Length: 400 * time.Millisecond,
	})
	require.Empty(t, r.Errors)
	require.Equal(t, int64(400), r.Requests, "what is due is asked, however late")
	// Those due within the stall's first half waited for at least its second.
	require.GreaterOrEqual(t, slower(t, r, stall/2-time.Millisecond), int64(100))
	require.GreaterOrEqual(t, r.Latency.Max, float64((stall - time.Millisecond).Microseconds()))
	require.GreaterOrEqual(t, r.Latency.P90, float64((stall / 2).Microseconds()))
}

func TestWarmUpIsNotMeasured(t *testing.T) {
	t.Parallel()
	addr := serve(t, func(ctx *fasthttp.RequestCtx) { ctx.SetBody(cast.Answer()) })
	var moments []string
	r, err := load.Run(t.Context(), load.Options{
		Addrs: []string{addr}, Path: cast.PathPriced, Accounts: 1, Clients: 4, Rate: 500,
		Warm: 100 * time.Millisecond, Length: 100 * time.Millisecond,
	}, load.Moments{
		Began: func() { moments = append(moments, "began") },
		Ended: func() { moments = append(moments, "ended") },
	})
	require.NoError(t, err)
	require.Equal(t, int64(50), r.Requests)
	require.Equal(t, []string{"began", "ended"}, moments)
}

// Before anything else every account that is used is asked for once, and no other.
func TestAccountsAreGreeted(t *testing.T) {
	t.Parallel()
	const active, stride = 100, 10
	var mu sync.Mutex
	keys := map[string]int{}
	addr := serve(t, func(ctx *fasthttp.RequestCtx) {
		mu.Lock()
		keys[string(ctx.Request.Header.Peek("Authorization"))]++
		mu.Unlock()
		ctx.SetBody(cast.Answer())
	})
	var met int
	_, err := load.Run(t.Context(), load.Options{
		Addrs: []string{addr}, Path: cast.PathPriced, Accounts: active * stride, Active: active, Clients: 8, Rate: 1,
		Greet: true, Length: 10 * time.Millisecond,
	}, load.Moments{Began: func() {
		mu.Lock()
		defer mu.Unlock()
		met = len(keys)
	}})
	require.NoError(t, err)
	require.Equal(t, active, met)
	asked := 0
	for i := range active {
		n := keys["Bearer "+cast.Key(i*stride)]
		require.Positive(t, n, i)
		asked += n
	}
	require.Equal(t, active+1, asked, "each once, and the one request that is measured")
}

func TestImagesBothWays(t *testing.T) {
	t.Parallel()
	image := cast.Image()
	addr := serve(t, func(ctx *fasthttp.RequestCtx) {
		if len(ctx.PostBody()) != cast.ImageSize {
			ctx.SetStatusCode(400)
		}
		ctx.SetBody(image)
	})
	r := run(t, load.Options{
		Addrs: []string{addr}, Path: cast.PathImage, Image: true, Accounts: 1, Clients: 2, Rate: 20, Length: 200 * time.Millisecond,
	})
	require.Equal(t, int64(4), r.Requests)
	require.Empty(t, r.Errors)
}

func TestNobodyThere(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	r := run(t, load.Options{
		Addrs: []string{l.Addr().String()}, Path: cast.PathFree, Accounts: 1, Clients: 1, Rate: 50, Length: 100 * time.Millisecond,
	})
	require.Equal(t, map[string]int64{"dial": 5}, r.Errors)
}

func TestOptionsAreRefusedByName(t *testing.T) {
	t.Parallel()
	good := load.Options{Addrs: []string{"x:1"}, Path: "/", Accounts: 1, Clients: 1, Length: 1}
	for name, spoil := range map[string]func(*load.Options){
		"address":  func(o *load.Options) { o.Addrs = nil },
		"clients":  func(o *load.Options) { o.Clients = load.ClientsMax + 1 },
		"accounts": func(o *load.Options) { o.Active = 2 },
		"negative": func(o *load.Options) { o.Length = 0 },
	} {
		o := good
		spoil(&o)
		_, err := load.Run(t.Context(), o, load.Moments{})
		require.ErrorContains(t, err, name)
	}
}
