package gateway_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/gateway"
	"creditgate/meter"
	"creditgate/meter/policy"
)

// unlimited grants a fair-use cap in the monthly bucket, which comes before purchased, until a day from now.
func (b *bundle) unlimited(account string, credits meter.Credits, stops bool) meter.Grant {
	b.t.Helper()
	now := time.Now()
	g := meter.Grant{
		ID: meter.NewID(now), Bucket: "monthly", Rank: 1, Available: credits, Unlimited: true, Stops: stops,
		ExpiresMs: now.Add(24 * time.Hour).UnixMilli(), CreatedMs: now.UnixMilli(),
	}
	d, err := b.house.apply(b.t.Context(), account, g)
	require.NoError(b.t, err)
	require.Equal(b.t, meter.CodeOK, d.Code)
	return g
}

func TestBeyondFairUseIsRefusedUntilTheReset(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	limit := b.unlimited("acme", 5*meter.Credit, true)
	for range 2 {
		r := b.post("/plain", key, "{}")
		require.Equal(t, 200, r.StatusCode, "%s", r.body)
		require.Equal(t, "2", r.Header.Get("X-Credits-Charged"))
		require.Equal(t, "unlimited", r.Header.Get("X-Credits-Remaining"))
	}
	for range 2 { // 1 is left of the cap, and 10 purchased behind it
		r := b.post("/plain", key, "{}")
		require.Equal(t, 429, r.StatusCode, "%s", r.body)
		require.Equal(t, "false", r.Header.Get("X-Should-Retry"))
		require.Empty(t, r.Header.Get("Retry-After"))
		p := r.json(t)
		require.Equal(t, "fair-use-exceeded", p["code"])
		require.Equal(t, time.UnixMilli(limit.ExpiresMs).UTC().Format("2006-01-02T15:04:05.000Z"), p["resets_at"])
		require.NotContains(t, p, "required", "a cap is no price tag")
	}
	r := b.post("/v1/images/generations", key, `{"n":1}`)
	require.Equal(t, 502, r.StatusCode, "the backend answers something else: the last credit of the cap was held and is back")
	require.EqualValues(t, 3, b.backend.calls.Load())
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{meter.Credit, 0}, [2]meter.Credits{available, held})

	status := b.control("POST", "/v1/reservations", `{"account":"acme","credits":2}`)
	require.Equal(t, 429, status.StatusCode, "by hand too: %s", status.body)
}

func TestACapThatDrawsLetsPurchasedFollow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 4*meter.Credit)
	b.unlimited("acme", 3*meter.Credit, false)
	for _, remaining := range []string{"unlimited", "3", "1"} { // the second takes the cap's last and one purchased
		r := b.post("/plain", key, "{}")
		require.Equal(t, 200, r.StatusCode, "%s", r.body)
		require.Equal(t, remaining, r.Header.Get("X-Credits-Remaining"))
	}
	r := b.post("/plain", key, "{}")
	require.Equal(t, 402, r.StatusCode, "%s", r.body)
}

func TestFreeOperationAtZero(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *gateway.Options) {
		src := strings.Replace(testPolicy, "unmatched:", "  report:\n    match: POST /report\n    credits: 0\n    at_zero: refuse\nunmatched:", 1)
		p, err := policy.Parse("studio.yaml", []byte(src))
		require.NoError(t, err)
		o.Policies = policy.NewCatalog(map[string]*policy.Policy{"studio": p})
	})
	rich, poor := b.account("rich", meter.Credit), b.account("poor", 0)
	require.Equal(t, 200, b.post("/report", rich, "{}").StatusCode)
	require.Equal(t, 200, b.post("/studio/revert", poor, "{}").StatusCode, "the default lets it pass")
	r := b.post("/report", poor, "{}")
	require.Equal(t, 402, r.StatusCode, "%s", r.body)
	require.Equal(t, "insufficient-credits", r.json(t)["code"])
	require.Equal(t, "false", r.Header.Get("X-Should-Retry"))
	require.EqualValues(t, 2, b.backend.calls.Load(), "the backend is not asked")

	_, err := b.engine.Suspend(t.Context(), "rich", true, 1)
	require.NoError(t, err)
	require.Equal(t, 403, b.post("/report", rich, "{}").StatusCode)
	require.Equal(t, 404, b.control("GET", "/v1/clock", "").StatusCode, "time cannot be moved here")
}
