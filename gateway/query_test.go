package gateway_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/gateway"
	"creditgate/meter"
)

// TestUnknownQueryParameters: a route of the gateway itself reads each parameter or refuses it, and names those it knows.
func TestUnknownQueryParameters(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	for route, takes := range map[string]string{
		"/credits/balance": "takes no query parameters", "/credits/packs": "takes no query parameters",
		"/credits/usage": "takes by, from, to", "/credits/history": "takes limit, cursor, from, kind",
	} {
		r := b.do(http.MethodGet, b.data+route+"?frm=2026-01-01", key, "")
		require.Equal(t, 400, r.StatusCode, "%s: %s", route, r.body)
		require.Contains(t, r.json(t)["detail"], takes, route)
		require.Equal(t, "frm", r.json(t)["error"].(map[string]any)["param"], route)
	}
	r := b.do(http.MethodGet, b.data+"/credits/history?limit=1&limit=2", key, "")
	require.Equal(t, 400, r.StatusCode, "%s", r.body)
	require.Equal(t, 200, b.post("/credits/quote/upscale/1?any=thing", key, "").StatusCode, "the operation's own query")

	for _, route := range []string{
		"GET /v1/accounts/acme", "PUT /v1/accounts/acme", "GET /v1/accounts/acme/balance", "GET /v1/policy", "GET /v1/clock",
		"GET /v1/accounts/acme/entries", "GET /v1/events", "DELETE /v1/accounts/acme/subscription", "POST /v1/reservations",
	} {
		method, path, _ := cutRoute(route)
		r := b.control(method, path+"?frm=1", "")
		require.Equal(t, 400, r.StatusCode, "%s: %s", route, r.body)
		require.Contains(t, r.json(t)["detail"], `"frm" is not known here; this route takes `, route)
	}
	require.Equal(t, 200, b.control(http.MethodGet, "/livez?verbose=1", "").StatusCode, "a probe may add what it likes")
}

func cutRoute(route string) (method, path string, ok bool) {
	for i := range route {
		if route[i] == ' ' {
			return route[:i], route[i+1:], true
		}
	}
	return "", "", false
}

// TestHistoryFilters: from and kind reach the ledger, a day as its beginning in the policy's timezone.
func TestHistoryFilters(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	summer := time.Date(2026, 6, 30, 22, 0, 0, 0, time.UTC) // 1 July in Berlin
	for _, get := range []func(query string) *reply{
		func(q string) *reply { return b.do(http.MethodGet, b.data+"/credits/history"+q, key, "") },
		func(q string) *reply { return b.control(http.MethodGet, "/v1/accounts/acme/entries"+q, "") },
	} {
		for query, want := range map[string]gateway.HistoryQuery{
			"":                 {Limit: 51},
			"?from=2026-07-01": {Limit: 51, From: summer},
			"?from=2026-07-01T00:00:00%2B02:00&kind=grant": {Limit: 51, From: summer, Kind: "grant"},
			"?kind=commit&limit=2&cursor=9":                {Limit: 3, Before: 9, Kind: "commit"},
		} {
			require.Equal(t, 200, get(query).StatusCode, query)
			got := b.house.lastHistory()
			require.True(t, want.From.Equal(got.From), "%s: %s", query, got.From)
			want.Account, want.From = "acme", got.From
			require.Equal(t, want, got, query)
		}
		for query, detail := range map[string]string{
			"?from=1.7.2026":   "from must be a day such as 2026-03-31, or a time such as 2026-03-31T12:00:00Z",
			"?from=":           "from must be a day such as",
			"?from=2026-02-30": "from must be a day such as",
			"?kind=purchase":   "kind must be one of grant, commit, release, expire, late, uncollected, lapse, revoke, adjust, hold",
			"?kind=":           "kind must be one of",
		} {
			r := get(query)
			require.Equal(t, 400, r.StatusCode, query)
			require.Contains(t, r.json(t)["detail"], detail, query)
		}
	}
	b.house.fail(errors.New("connection refused"))
	require.Equal(t, 503, b.control(http.MethodGet, "/v1/accounts/acme/entries?from=2026-07-01", "").StatusCode)
}

func (h *house) lastHistory() gateway.HistoryQuery {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.history
}
