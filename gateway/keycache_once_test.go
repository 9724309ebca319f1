package gateway

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"creditgate/meter/policy"
)

// A key that nobody used for longer than its entry is believed is looked up once, by the request that waits for it.
func TestKeyPastItsTTLIsLookedUpOnce(t *testing.T) {
	t.Parallel()
	m, err := newMetrics(prometheus.NewRegistry(), policy.NewCatalog(nil))
	require.NoError(t, err)
	c := newKeyCache(time.Second, m)
	asked := 0
	var fails error
	find := func(context.Context, cacheKey) (Identity, error) {
		asked++
		return Identity{Account: "acme"}, fails
	}
	get := func(after time.Duration) {
		t.Helper()
		who, err := c.get(t.Context(), time.Now().Add(after), cacheKey{account: "acme"}, find)
		require.NoError(t, err)
		require.Equal(t, "acme", who.Account)
	}
	get(0)
	require.Equal(t, 1, asked)
	get(2 * time.Second)
	require.Equal(t, 2, asked)
	require.Empty(t, c.queue, "the request has the answer; nothing is left to ask for")
	get(700 * time.Millisecond)
	require.Len(t, c.queue, 1, "in use: looked up ahead")
	<-c.queue
	fails = errors.New("connection refused")
	get(4 * time.Second) // storage seems away from here on
	get(4 * time.Second)
	require.Equal(t, 4, asked)
	require.Len(t, c.queue, 1, "no request has the time that a slow storage may need")
}
