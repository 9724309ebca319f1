package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/gateway"
	"creditgate/meter"
)

// A failed handshake has sent no request.
func TestTLSHandshakeFails(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	b := setup(t, mixed("refuse"), func(o *gateway.Options) { o.Upstreams = []string{s.URL} }) // its CA is not known
	key := b.account("acme", 10*meter.Credit)
	r := b.post("/plain", key, "")
	require.Equal(t, "upstream-unreachable", r.json(t)["code"], "%s", r.body)
	require.Equal(t, "true", r.Header.Get("X-Should-Retry"))
	require.Negative(t, b.metric("creditgate_upstream_ambiguous_total"), "not counted: nothing was sent")
}

// A reserve that takes the backend's time is not the backend's failure.
func TestReserveTakesTheTime(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"), func(o *gateway.Options) {
		o.UpstreamTimeout, o.BreakerRequests = 50*time.Millisecond, 1
	})
	key := b.account("acme", 10*meter.Credit)
	b.reserve = func(meter.Reserve) error { <-time.After(100 * time.Millisecond); return nil }
	for range 2 {
		r := b.post("/plain", key, "")
		require.Equal(t, 504, r.StatusCode, "%s", r.body)
		require.Equal(t, "upstream-timeout", r.json(t)["code"])
	}
	require.Zero(t, b.backend.calls.Load())
	require.Zero(t, b.breaker(), "closed")
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{10_000, 0}, [2]meter.Credits{available, held})
}
