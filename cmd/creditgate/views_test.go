package main_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter/policy"
)

// studioWorld is a world of the background studio: every photo is delivered.
func studioWorld(t *testing.T) *gateway {
	t.Helper()
	w := newWorld(t, nil)
	src, err := policy.Example("ai-background-studio")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(w.policy, allowDiscounts(t, src), 0o600))
	w.backend.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var in struct {
			Photos []int `json:"photos"`
		}
		_ = json.NewDecoder(r.Body).Decode(&in)
		rw.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(rw, `{"results":[`+strings.TrimSuffix(strings.Repeat(`{"status":"ok"},`, len(in.Photos)), ",")+`]}`)
	})
	g := w.serve(t, "CREDITGATE_TEST_CLOCK=true")
	g.must(t, "PUT", "/v1/clock", `{"now":"2027-01-10T12:00:00Z"}`)
	return g
}

// allowDiscounts is a policy whose product negotiates lower prices, too.
func allowDiscounts(t *testing.T, src []byte) []byte {
	t.Helper()
	require.Contains(t, string(src), "discounts: none")
	return bytes.Replace(src, []byte("discounts: none"), []byte("discounts: allowed"), 1)
}

// customer is a client with a key.
type customer struct {
	t    *testing.T
	g    *gateway
	key  string
	name string
}

func (g *gateway) customer(t *testing.T, name string) customer {
	t.Helper()
	return customer{t, g, g.account(t, name), name}
}

func (c customer) ask(method, path, body string) (int, string, http.Header) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.g.data+path, strings.NewReader(body))
	require.NoError(c.t, err)
	req.Header.Set("Authorization", "Bearer "+c.key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(c.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	return resp.StatusCode, string(b), resp.Header
}

func (c customer) get(path string) string {
	c.t.Helper()
	status, body, _ := c.ask("GET", path, "")
	require.Equal(c.t, 200, status, body)
	return body
}

// apply has n photos done and returns what was charged.
func (c customer) apply(n int) string {
	c.t.Helper()
	status, body, head := c.ask("POST", "/studio/apply", photos(n))
	require.Equal(c.t, 200, status, body)
	return head.Get("X-Credits-Charged")
}

func photos(n int) string {
	return `{"background":"#ffffff","photos":[1` + strings.Repeat(",1", n-1) + `]}`
}

// part is a part of a JSON text, by keys.
func part(t *testing.T, text string, keys ...string) any {
	t.Helper()
	var v any
	require.NoError(t, json.Unmarshal([]byte(text), &v))
	for _, k := range keys {
		v = v.(map[string]any)[k]
	}
	return v
}

// What a studio's header (B34) and its billing page (B35) show, from the subscription to the reset (B17).
func TestStudioPages(t *testing.T) {
	t.Parallel()
	g := studioWorld(t)
	c := g.customer(t, "acme")
	g.must(t, "PUT", "/v1/accounts/acme/subscription", `{"plan":"professional_plus","slots":50}`)
	g.must(t, "POST", "/v1/accounts/acme/grants",
		`{"bucket":"purchased","credits":50,"external_ref":"p1","expires_at":"2028-01-10T23:00:00Z"}`)
	require.Equal(t, "3", c.apply(3))
	const reset = "2027-01-31T23:00:00.000Z"
	require.JSONEq(t, `{"account":"acme","available":547,"held":0,"debt":0,"plan":"professional_plus",
		"next_reset_at":"`+reset+`","next_reset":{"at":"`+reset+`","credits":500},"buckets":[
		{"name":"promo","available":0,"held":0,"unlimited":false,"next_expiry":null},
		{"name":"monthly","available":497,"held":0,"unlimited":false,"next_expiry":{"credits":497,"at":"`+reset+`"}},
		{"name":"purchased","available":50,"held":0,"unlimited":false,
			"next_expiry":{"credits":50,"at":"2028-01-10T23:00:00.000Z"}}]}`, c.get("/credits/balance"))
	require.JSONEq(t, c.get("/credits/balance"), g.must(t, "GET", "/v1/accounts/acme/balance", ""))
	require.JSONEq(t, `{"packs":[
		{"name":"plus-50","bucket":"purchased","credits":50,"net_minor":4500,"currency":"EUR","unit_price":"0.90",
			"discount_percent":0,"validity":"1 year","expires_at":"2028-01-10T23:00:00.000Z","refundable":false,"buy_url":null},
		{"name":"plus-200","bucket":"purchased","credits":200,"net_minor":16000,"currency":"EUR","unit_price":"0.80",
			"discount_percent":11,"validity":"1 year","expires_at":"2028-01-10T23:00:00.000Z","refundable":false,"buy_url":null},
		{"name":"plus-500","bucket":"purchased","credits":500,"net_minor":35000,"currency":"EUR","unit_price":"0.70",
			"discount_percent":22,"validity":"1 year","expires_at":"2028-01-10T23:00:00.000Z","refundable":false,"buy_url":null}
		]}`, c.get("/credits/packs"))

	g.must(t, "PUT", "/v1/accounts/acme/overrides/frame-2027", `{"kind":"unit_credits","target":"apply","credits":0.5}`)
	require.Equal(t, "1.5", c.apply(3), "negotiated, from now on")
	g.must(t, "DELETE", "/v1/accounts/acme/overrides/frame-2027", "")
	require.Equal(t, "1", c.apply(1), "and not any more")

	g.must(t, "PUT", "/v1/clock", `{"now":"2027-01-31T22:59:00Z"}`)
	require.InDelta(t, 544.5, part(t, c.get("/credits/balance"), "available"), 0)
	g.must(t, "PUT", "/v1/clock", `{"advance":"2m"}`)
	require.InDelta(t, 550, part(t, c.get("/credits/balance"), "available"), 0, "no carry-over, no waiting")
	require.Equal(t, "2027-02-28T23:00:00.000Z", part(t, c.get("/credits/balance"), "next_reset_at"))
	require.Equal(t, "2", c.apply(2))
	require.Eventually(t, func() bool {
		return part(t, c.get("/credits/usage?by=operation"), "total", "charges") == 4.0
	}, patience, 10*time.Millisecond)
	usage := c.get("/credits/usage?by=day&from=2027-01-31&to=2027-02-01")
	require.JSONEq(t, `[{"day":"2027-01-31","credits":0,"units":0,"charges":0},
		{"day":"2027-02-01","credits":2,"units":2,"charges":1}]`, text(t, part(t, usage, "rows")))
	require.JSONEq(t, `[{"operation":"apply","credits":7.5,"units":9,"charges":4}]`,
		text(t, part(t, c.get("/credits/usage?by=operation"), "rows")))
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

// Far from the reset somebody with too little is told to buy, near it to wait; the plan is what counts at that moment.
func TestStudioAdvice(t *testing.T) {
	t.Parallel()
	g := studioWorld(t)
	c := g.customer(t, "small")
	g.must(t, "PUT", "/v1/accounts/small/subscription", `{"plan":"professional_plus","slots":1}`)
	require.Equal(t, "8", c.apply(8))
	advice := func(n int) string {
		t.Helper()
		status, refusal, _ := c.ask("POST", "/studio/apply", photos(n))
		require.Equal(t, 402, status, refusal)
		_, quote, _ := c.ask("POST", "/credits/quote/studio/apply", photos(n))
		require.Equal(t, part(t, quote, "advice"), part(t, refusal, "advice"))
		return text(t, part(t, quote, "advice"))
	}
	require.JSONEq(t, `{"action":"buy","packs":["plus-50","plus-200","plus-500"]}`, advice(3))
	g.must(t, "PUT", "/v1/clock", `{"now":"2027-01-25T12:00:00Z"}`)
	require.JSONEq(t, `{"action":"wait_for_reset","at":"2027-01-31T23:00:00.000Z","credits":10}`, advice(3))
	require.JSONEq(t, `{"action":"buy","packs":["plus-50","plus-200","plus-500"]}`, advice(11))
}

// An unlimited plan shows no number (B11), and its cap beside; what was negotiated counts.
func TestStudioUnlimited(t *testing.T) {
	t.Parallel()
	g := studioWorld(t)
	c := g.customer(t, "big")
	g.must(t, "PUT", "/v1/accounts/big/overrides/more", `{"kind":"fair_use","target":"monthly","credits":25000}`)
	g.must(t, "PUT", "/v1/accounts/big/subscription", `{"plan":"premium"}`)
	require.Equal(t, "2", c.apply(2))
	require.Eventually(t, func() bool { // the cap is shown when Postgres has it
		monthly := part(t, c.get("/credits/balance"), "buckets").([]any)[1]
		return text(t, monthly) == `{"available":null,"fair_use":{"cap":25000,"left":24998,"used":2},"held":0,`+
			`"name":"monthly","next_expiry":null,"unlimited":true}`
	}, patience, 10*time.Millisecond, "%s", c.get("/credits/balance"))
	require.Nil(t, part(t, c.get("/credits/balance"), "available"))
	require.Nil(t, part(t, c.get("/credits/balance"), "next_reset", "credits"))
	require.Empty(t, part(t, c.get("/credits/packs"), "packs"))
}
