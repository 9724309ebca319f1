package gateway_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

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
	assert.NotContains(t, seen, "X-Hop")
}
