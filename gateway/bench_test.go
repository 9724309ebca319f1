package gateway_test

import (
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/meter"
)

// BenchmarkRequest compares a priced request with a free one through the same gateway, and both with the least that a
// proxy does: client, gateway, Redis and backend share the machine, so read the ratio.
func BenchmarkRequest(b *testing.B) {
	for _, route := range []struct{ name, path, body string }{
		{"proxy", "/studio/revert", `{}`},
		{"free", "/studio/revert", `{}`},
		{"fixed", "/plain", `{}`},
		{"json", "/v1/images/generations", `{"n":1,"prompt":"a fox"}`},
	} {
		b.Run(route.name, func(b *testing.B) {
			h := setup(b)
			key, url := h.account("acme", 1e9*meter.Credit), h.data
			h.backend.answer(200, `{"data":[{"url":"`+strings.Repeat("x", 2000)+`"}]}`)
			if route.name == "proxy" {
				url = startProxy(b, h.backend.url)
			}
			client := &fasthttp.HostClient{Addr: strings.TrimPrefix(url, "http://"), MaxConns: 1024}
			b.SetParallelism(32)
			b.ReportAllocs()
			began := cpuTime(b)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
				req.SetRequestURI(url + route.path)
				req.Header.SetMethod("POST")
				req.Header.Set("Authorization", "Bearer "+key)
				req.Header.SetContentType("application/json")
				req.SetBodyString(route.body)
				for pb.Next() {
					if err := client.Do(req, resp); err != nil {
						b.Error(err)
						return
					}
					if resp.StatusCode() != 200 {
						b.Errorf("answered %d: %s", resp.StatusCode(), resp.Body())
						return
					}
				}
			})
			b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpuTime is what this process has used so far, client and backend included, Redis not: on a machine that others use
// too it says more than the clock does.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// startProxy is the floor: a fasthttp proxy that authenticates nobody and counts nothing.
func startProxy(b *testing.B, backend string) string {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	to := &fasthttp.HostClient{Addr: strings.TrimPrefix(backend, "http://"), MaxConns: 1024, DisablePathNormalizing: true}
	server := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		ctx.Request.Header.Del("Connection")
		if err := to.Do(&ctx.Request, &ctx.Response); err != nil {
			ctx.Error("no answer", fasthttp.StatusBadGateway)
		}
	}}
	go func() { _ = server.Serve(ln) }()
	b.Cleanup(func() { _ = ln.Close() })
	return "http://" + ln.Addr().String()
}
