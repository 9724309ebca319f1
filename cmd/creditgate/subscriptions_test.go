package main_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"creditgate/meter/policy"
)

// newStudio is a world with the studio's policy and a clock that can be moved.
func newStudio(t *testing.T) (*world, *gateway) {
	t.Helper()
	w := newWorld(t, nil)
	src, err := policy.Example("ai-background-studio")
	require.NoError(t, err)
	w.policy = filepath.Join(t.TempDir(), "studio.yaml")
	require.NoError(t, os.WriteFile(w.policy, src, 0o600))
	return w, w.serve(t, "CREDITGATE_TEST_CLOCK=true")
}

func (g *gateway) moveTo(t *testing.T, now string) {
	t.Helper()
	g.must(t, "PUT", "/v1/clock", `{"now":"`+now+`"}`)
}

// buckets is what each bucket has available, -1 where it is unlimited.
func (g *gateway) buckets(t *testing.T, account string) map[string]float64 {
	t.Helper()
	var b struct {
		Buckets []struct {
			Name      string   `json:"name"`
			Available *float64 `json:"available"`
		} `json:"buckets"`
	}
	require.NoError(t, json.Unmarshal([]byte(g.must(t, "GET", "/v1/accounts/"+account+"/balance", "")), &b))
	out := map[string]float64{}
	for _, k := range b.Buckets {
		out[k.Name] = -1 // unlimited
		if k.Available != nil {
			out[k.Name] = *k.Available
		}
	}
	return out
}

// A subscription through its whole life, on the real system: each reset comes at its moment, without a job.
func TestSubscriptionThroughAYear(t *testing.T) {
	t.Parallel()
	w, g := newStudio(t)
	g.moveTo(t, "2027-01-10T08:00:00Z")
	g.account(t, "ada")
	status, _ := g.ask(t, "GET", "/v1/accounts/ada/subscription", "")
	require.Equal(t, http.StatusNotFound, status)

	status, answer := g.ask(t, "PUT", "/v1/accounts/ada/subscription",
		`{"plan":"professional_plus","slots":5,"starts_at":"2027-01-10T08:00:00Z","external_ref":"order-1"}`)
	require.Equal(t, http.StatusCreated, status, answer)
	require.JSONEq(t, `{"account":"ada","plan":"professional_plus","slots":5,"period":"monthly",
		"starts_at":"2027-01-10T08:00:00.000Z","ends_at":null,
		"cycle":{"starts_at":"2026-12-31T23:00:00.000Z","ends_at":"2027-01-31T23:00:00.000Z"},
		"next_reset_at":"2027-01-31T23:00:00.000Z","scheduled":null,"applied":true}`, answer)
	require.Equal(t, map[string]float64{"promo": 0, "monthly": 50, "purchased": 0}, g.buckets(t, "ada"))

	status, answer = g.ask(t, "PUT", "/v1/accounts/ada/subscription", `{"plan":"professional","slots":4,"period":"yearly"}`)
	require.Equal(t, http.StatusOK, status, answer)
	require.Contains(t, answer, `"scheduled":{"plan":"professional","slots":4,"period":"yearly","at":"2027-01-31T23:00:00.000Z"}`)
	require.InEpsilon(t, 50, g.buckets(t, "ada")["monthly"], 0)

	g.moveTo(t, "2027-01-31T23:00:00Z") // the very millisecond
	require.InEpsilon(t, 20, g.buckets(t, "ada")["monthly"], 0)
	for _, month := range []string{"03", "04", "05", "06", "07", "08"} {
		g.moveTo(t, "2027-"+month+"-15T00:00:00Z")
		require.InEpsilon(t, 20, g.buckets(t, "ada")["monthly"], 0, month)
	}

	status, answer = g.ask(t, "PUT", "/v1/accounts/ada/overrides/deal-1",
		`{"kind":"contingent","target":"monthly","credits":30.5,"reason":"negotiated"}`)
	require.Equal(t, http.StatusCreated, status, answer)
	require.InEpsilon(t, 30.5, g.buckets(t, "ada")["monthly"], 0)
	require.Contains(t, g.must(t, "GET", "/v1/accounts/ada/overrides", ""), `"ref":"deal-1"`)
	require.NotContains(t, g.must(t, "DELETE", "/v1/accounts/ada/overrides/deal-1", ""), `"until":null`)

	require.Contains(t, g.must(t, "DELETE", "/v1/accounts/ada/subscription", ""), `"ends_at":"2028-01-31T23:00:00.000Z"`)
	g.moveTo(t, "2028-01-31T22:00:00Z") // asleep for half a year
	require.InEpsilon(t, 20, g.buckets(t, "ada")["monthly"], 0)
	g.moveTo(t, "2028-01-31T23:00:00Z")
	require.Zero(t, g.buckets(t, "ada")["monthly"])
	require.Contains(t, g.must(t, "GET", "/v1/accounts/ada/subscription", ""), `"next_reset_at":null`)
	g.interrupt(t, os.Interrupt)
	w.verified(t)
}

func TestWhatTheSubscriptionRoutesRefuse(t *testing.T) {
	t.Parallel()
	_, g := newStudio(t)
	g.moveTo(t, "2027-01-10T08:00:00Z")
	g.account(t, "ada")
	f := func(method, path, body string, status int, code, param, detail string) {
		t.Helper()
		got, answer := g.ask(t, method, path, body)
		var p struct {
			Code   string `json:"code"`
			Detail string `json:"detail"`
			Error  struct {
				Param *string `json:"param"`
			} `json:"error"`
		}
		require.NoError(t, json.Unmarshal([]byte(answer), &p))
		require.Equal(t, status, got, answer)
		require.Equal(t, code, p.Code, answer)
		require.Contains(t, p.Detail, detail)
		if param != "" {
			require.NotNil(t, p.Error.Param, answer)
			require.Equal(t, param, *p.Error.Param)
		}
	}
	put := func(body string, status int, code, param, detail string) {
		t.Helper()
		f("PUT", "/v1/accounts/ada/subscription", body, status, code, param, detail)
	}
	put(`{}`, 400, "invalid-request", "plan", "plan is required")
	put(`{"plan":"gold"}`, 400, "invalid-request", "plan", "ai-background-studio has premium, professional_plus, professional, basic")
	put(`{"plan":"professional"}`, 400, "invalid-request", "slots", "slots is required")
	put(`{"plan":"professional","slots":-1}`, 400, "invalid-request", "slots", "")
	put(`{"plan":"professional","slots":1.5}`, 400, "invalid-request", "slots", "")
	put(`{"plan":"professional","slots":1000001}`, 400, "invalid-request", "slots", "at most 1000000")
	put(`{"plan":"professional","slots":1,"period":"weekly"}`, 400, "invalid-request", "period", "monthly or yearly")
	put(`{"plan":"professional","slots":1,"starts_at":"tomorrow"}`, 400, "invalid-request", "", "")
	put(`{"plan":"professional","slots":1,"starts_at":"2030-01-01T00:00:00Z"}`, 400, "invalid-request", "starts_at", "too far")
	put(`{"plan":"professional","slots":1,"anchor_at":"2027-01-15T00:00:00Z"}`, 400, "invalid-request", "anchor_at", "leave it out")
	put(`{"plan":"professional","slots":1,"seats":2}`, 400, "invalid-request", "", "seats")
	put(`{"plan":"professional","slots":1,"external_ref":"a b"}`, 400, "invalid-request", "external_ref", "")
	f("PUT", "/v1/accounts/nobody/subscription", `{"plan":"basic"}`, 404, "not-found", "", "account")
	f("DELETE", "/v1/accounts/ada/subscription", "", 404, "not-found", "", "")
	f("DELETE", "/v1/accounts/ada/subscription?at=tomorrow", "", 400, "invalid-request", "at", "period_end")

	g.must(t, "PUT", "/v1/accounts/ada/subscription", `{"plan":"professional","slots":1,"external_ref":"order-1"}`)
	put(`{"plan":"professional","slots":2,"external_ref":"order-1"}`, 409, "conflict", "", "")

	over := func(body string, status int, code, param, detail string) {
		t.Helper()
		f("PUT", "/v1/accounts/ada/overrides/deal", body, status, code, param, detail)
	}
	over(`{}`, 400, "invalid-request", "kind", "")
	over(`{"kind":"gift","target":"monthly","credits":1}`, 400, "invalid-request", "kind", "contingent, fair_use or unit_credits")
	over(`{"kind":"contingent","target":"weekly","credits":1}`, 400, "invalid-request", "target", "which has promo, monthly, purchased")
	over(`{"kind":"fair_use","target":"purchased","credits":1}`, 400, "invalid-request", "target", "use kind contingent")
	over(`{"kind":"unit_credits","target":"paint","credits":1}`, 400, "invalid-request", "target", "apply")
	over(`{"kind":"unit_credits","target":"apply","credits":0}`, 400, "invalid-request", "credits", "above 0")
	over(`{"kind":"unit_credits","target":"apply","credits":0.5}`, 400, "invalid-request", "credits", "gives no discounts")
	over(`{"kind":"contingent","target":"monthly","credits":1,"until":"2026-01-01T00:00:00Z"}`, 400, "invalid-request", "until", "")
	over(`{"kind":"contingent","target":"monthly","credits":1,"reason":"`+strings.Repeat("x", 121)+`"}`, 400, "invalid-request", "reason", "")
	f("DELETE", "/v1/accounts/ada/overrides/deal", "", 404, "not-found", "", "")
	f("GET", "/v1/accounts/nobody/overrides", "", 404, "not-found", "", "")
}
