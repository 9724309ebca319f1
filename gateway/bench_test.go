package gateway_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/meter"
)

// BenchmarkRequest compares a priced request with a free one through the same gateway: client, gateway, Redis and
// backend share the machine, so read the ratio.
func BenchmarkRequest(b *testing.B) {
	for _, route := range []struct{ name, path, body string }{
		{"free", "/studio/revert", `{}`},
		{"fixed", "/plain", `{}`},
		{"json", "/v1/images/generations", `{"n":1,"prompt":"a fox"}`},
	} {
		b.Run(route.name, func(b *testing.B) {
			h := setup(b)
			key := h.account("acme", 1e9*meter.Credit)
			h.backend.answer(200, `{"data":[{"url":"`+strings.Repeat("x", 2000)+`"}]}`)
			client := &fasthttp.HostClient{Addr: strings.TrimPrefix(h.data, "http://"), MaxConns: 1024}
			b.SetParallelism(32)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
				req.SetRequestURI(h.data + route.path)
				req.Header.SetMethod("POST")
				req.Header.Set("Authorization", "Bearer "+key)
				req.Header.SetContentType("application/json")
				req.SetBodyString(route.body)
				for pb.Next() {
					require.NoError(b, client.Do(req, resp))
					require.Equal(b, 200, resp.StatusCode())
				}
			})
		})
	}
}
