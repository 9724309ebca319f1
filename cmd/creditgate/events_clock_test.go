package main_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const eventsPolicy = `
name: studio
timezone: Europe/Berlin
buckets: [promo, monthly, purchased]
cycle: {anchor: subscription_start}
plans:
  plus: {monthly: {credits: slots * 10}}
events: {low: [50], expiring_days: 7}
operations:
  generate: {match: POST /v1/images/generations, units: body.n ?? 1, max: 10, credits: 1}
`

func TestEventsFollowTheTestClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	require.NoError(t, os.WriteFile(w.policy, []byte(eventsPolicy), 0o600))
	g := w.serve(t, "CREDITGATE_TEST_CLOCK=true")
	key := g.account(t, "ada")
	g.must(t, "PUT", "/v1/accounts/ada/subscription", `{"plan":"plus","slots":1}`)
	for range 6 {
		r, err := generate(t.Context(), w.backend.Client(), g.data, key)
		require.NoError(t, err)
		require.Equal(t, 200, r.status)
	}
	has := func(kind string, n int, what string) {
		t.Helper()
		require.Eventually(t, func() bool { return len(g.feed(t, "?type="+kind).Events) >= n }, patience, 20*time.Millisecond,
			"%s: %s", kind, what)
		found := g.feed(t, "?type="+kind).Events
		require.Len(t, found, n, kind)
		require.Contains(t, string(found[n-1].Data), what)
	}
	has("credits.low", 1, `"available":4`)
	g.must(t, "PUT", "/v1/clock", `{"advance":"26d"}`)
	has("credits.expiring", 1, `"credits":4`)
	require.Empty(t, g.feed(t, "?type=subscription.renewed").Events)
	g.must(t, "PUT", "/v1/clock", `{"advance":"6d"}`)
	has("subscription.renewed", 1, `"slots":1`)
	has("credits.lapsed", 1, `"credits":4`)
	for month := 2; month <= 4; month++ {
		g.must(t, "PUT", "/v1/clock", `{"advance":"31d"}`)
		has("subscription.renewed", month, `"plan":"plus"`)
		has("credits.lapsed", month, `"credits":10`)
	}
	all := g.feed(t, "?limit=1000")
	require.Equal(t, int64(len(all.Events)), all.NextAfter, fmt.Sprint(all))
}
