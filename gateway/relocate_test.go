package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/gateway"
	"creditgate/meter"
)

// TestRedirectStaysOnTheGateway: no field that a client follows names a backend, in an answer or its replay.
func TestRedirectStaysOnTheGateway(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *gateway.Options) { o.Upstreams = append(o.Upstreams, "https://Backend.internal") })
	key := b.account("acme", 100*meter.Credit)
	b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	me := strings.TrimPrefix(b.backend.url, "http://")
	for in, want := range map[string]string{
		"http://" + me + "/plain/?a=b#c":     "/plain/?a=b#c",
		"https://" + me + "/x":               "/x",
		"HTTP://user:pw@" + me + "/x":        "/x",
		"//" + me + "/x":                     "/x",
		"http://" + me:                       "/",
		"http://" + me + "?a=b":              "/?a=b",
		"http://" + me + "//other.example/x": "/.//other.example/x",
		"http://" + me + `\other.example`:    "/other.example",
		"https://backend.internal/x":         "/x",
		"https://BACKEND.internal:443/x":     "/x",
		"//backend.internal:443/x":           "/x",
		"http://backend.internal/x":          "/x",
		"https://backend.internal:8443/x":    "https://backend.internal:8443/x",
		"https://backend.internal.example/x": "https://backend.internal.example/x",
		"https://cdn.example/" + me + "/x":   "https://cdn.example/" + me + "/x",
		"ftp://" + me + "/x":                 "ftp://" + me + "/x",
		"/x":                                 "/x",
		"x?u=http://" + me + "/":             "x?u=http://" + me + "/",
	} {
		b.backend.on(func(ctx *fasthttp.RequestCtx) {
			h := &ctx.Response.Header
			for _, name := range []string{"Location", "Content-Location", "Operation-Location"} {
				h.Add(name, in)
				h.Add(name, in)
			}
			h.Add("Refresh", `0; URL="`+in+`"`)
			h.Add("Refresh", "1; url="+in)
			h.Add("Link", "<"+in+">; rel=next, <https://cdn.example/>; rel=up")
			h.Add("Link", "</y>; rel=prev, <"+in+`>; rel="a b"`)
			h.Set("Alt-Svc", `h2=":8443"`)
			ctx.SetStatusCode(201)
		})
		for range 2 { // the second one is a replay where the first backend took the request
			r := b.post("/plain", key, "", "Idempotency-Key", "k"+strings.Map(func(c rune) rune {
				if strings.ContainsRune(`;, "\`, c) {
					return '_'
				}
				return c
			}, in))
			if r.StatusCode == http.StatusBadGateway { // backend.internal is not there
				continue
			}
			require.Equal(t, 201, r.StatusCode, "%s", r.body)
			for _, name := range []string{"Location", "Content-Location", "Operation-Location"} {
				require.Equal(t, []string{want, want}, r.Header.Values(name), "%s: %s", name, in)
			}
			require.Empty(t, r.Header.Get("Alt-Svc"), in)
			require.Equal(t, []string{`0; URL="` + want + `"`, "1; url=" + want}, r.Header.Values("Refresh"), in)
			require.Equal(t, []string{
				"<" + want + ">; rel=next, <https://cdn.example/>; rel=up", "</y>; rel=prev, <" + want + `>; rel="a b"`,
			}, r.Header.Values("Link"), in)
		}
	}
}
