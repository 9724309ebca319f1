package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"

	"creditgate/gateway"
	"creditgate/meter"
)

// A failed handshake sent no request.
func TestTLSHandshakeFails(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	b := setup(t, mixed("refuse"), func(o *gateway.Options) { o.Upstreams = []string{s.URL} }) // its CA is not known
	key := b.account("acme", 10*meter.Credit)
	r := b.post("/plain", key, "")
	assert.Equal(t, "upstream-unreachable", r.json(t)["code"], "%s", r.body)
	assert.Empty(t, r.Header.Get("X-Should-Retry"))
	assert.EqualValues(t, -1, b.metric("creditgate_upstream_ambiguous_total"), "nothing was sent")
}
