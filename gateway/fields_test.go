package gateway_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/gateway"
	"creditgate/meter"
)

// The price follows the header that the backend gets, not one that the client has stripped before it gets there.
func TestPricedHeaderNamedByConnection(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"))
	key := b.account("acme", 100*meter.Credit)
	b.backend.on(func(ctx *fasthttp.RequestCtx) {
		fmt.Fprintf(ctx, "x-model=%q content-type=%q", ctx.Request.Header.Peek("X-Model"), ctx.Request.Header.ContentType())
	})
	r := b.raw(lines("POST /model HTTP/1.1\nHost: x\nAuthorization: Bearer " + key +
		"\nX-Model: cheap\nConnection: x-model\nContent-Length: 0\n\n"))
	require.Equal(t, "5", r.Header.Get("X-Credits-Charged"), "the backend saw %s", r.body)
	require.EqualValues(t, 1, b.backend.calls.Swap(0))
	b.refused(t, 400, "content-type", b.raw(lines("POST /v1/images/generations HTTP/1.1\nHost: x\nAuthorization: Bearer "+key+
		"\nContent-Type: application/json\nConnection: content-type\nContent-Length: 7\n\n")+`{"n":1}`))
}

// What belongs to the connection ends here, also when Connection: close stands on a line of its own.
func TestConnectionOnTwoLines(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"))
	key := b.account("acme", 100*meter.Credit)
	var seen string
	b.backend.on(func(ctx *fasthttp.RequestCtx) { seen = ctx.Request.Header.String() })
	b.raw(lines("POST /plain HTTP/1.1\nHost: x\nAuthorization: Bearer " + key +
		"\nX-Hop: 1\nConnection: x-hop\nConnection: close\nContent-Length: 0\n\n"))
	require.NotContains(t, seen, "X-Hop")
}

// Headers by which frameworks replace method or path do not reach the backend.
func TestOverridesDoNotPass(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"))
	key := b.account("acme", 100*meter.Credit)
	var seen string
	b.backend.on(func(ctx *fasthttp.RequestCtx) { seen = ctx.Request.Header.String() })
	names := []string{
		"X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Original-Url", "X-Rewrite-Url",
		"X-Forwarded-Prefix", "X-Forwarded-Uri", "X-Original-Uri", "X-Forwarded-Path",
	}
	for _, name := range names {
		require.Equal(t, 200, b.post("/studio/revert", key, "", name, "/studio/apply").StatusCode)
		require.NotContains(t, seen, name+":")
	}
}

// A trusted peer's own account line is not outvoted by one that came through it.
func TestTwoAccountHeaders(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"), func(o *gateway.Options) { o.TrustedPeers = []string{"127.0.0.1"} })
	b.account("victim", 100*meter.Credit)
	b.account("mallory", 100*meter.Credit)
	r := b.raw(lines("POST /plain HTTP/1.1\nHost: x\nX-Account-Id: victim\nX-Account-Id: mallory\nContent-Length: 0\n\n"))
	require.Equal(t, 401, r.StatusCode)
}

// A field name with a blank in it is not a field name; fasthttp leaves it as it came, and so unnormalised.
func TestHeaderNameWithABlank(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"))
	key := b.account("acme", 100*meter.Credit)
	var seen string
	b.backend.on(func(ctx *fasthttp.RequestCtx) { seen = ctx.Request.Header.String() })
	r := b.raw(lines("POST /plain HTTP/1.1\nHost: x\nAuthorization: Bearer " + key +
		"\nx-credits-charged x: 1\nContent-Length: 0\n\n"))
	require.Equal(t, 400, r.StatusCode)
	require.NotContains(t, seen, "x-credits-charged x")
}

// No Content-Type is invented.
func TestNoContentTypeIsInvented(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"))
	key := b.account("acme", 100*meter.Credit)
	var seen string
	b.backend.on(func(ctx *fasthttp.RequestCtx) { seen = string(ctx.Request.Header.RawHeaders()) })
	b.raw(lines("POST /plain HTTP/1.1\nHost: x\nAuthorization: Bearer "+key+"\nContent-Length: 2\n\n") + "{}")
	require.NotContains(t, seen, "octet-stream")
	b.raw(lines("GET /query?model=cheap HTTP/1.1\nHost: x\nAuthorization: Bearer "+key+"\nContent-Length: 2\n\n") + "{}")
	require.Contains(t, seen, "Content-Length: 2")
}

// A key names one account's request; the backend knows no accounts, on free routes neither.
func TestIdempotencyKeyEndsAtTheGateway(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"), func(o *gateway.Options) { o.UpstreamIdempotencyKey = true })
	key := b.account("acme", 10*meter.Credit)
	got := b.backend.echo()
	r := b.post("/studio/revert", key, "", "Idempotency-Key", "k")
	require.Equal(t, 200, r.StatusCode)
	require.NotContains(t, got, "Idempotency-Key")
}
